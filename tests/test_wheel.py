"""What `pip install fedmb` brings, and that it works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without isolation, so also without a network."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT, cwd=place)
    (built,) = place.glob("fedmb-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with fedmb from the wheel, to be put before the editable installation of the checkout."""
    place = tmp_path_factory.mktemp("installed")
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        place,
        wheel,
        cwd=place,
    )
    return place


def test_the_only_top_level_package_is_fedmb(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"fedmb"}
    assert len(tops) == 2


@pytest.mark.parametrize(
    "part",
    [
        "fedmb/py.typed",
        "fedmb/tasks/data/digits.npz",
        "fedmb/tasks/data/LICENSE-digits.md",
        "fedmb/cli/template/task.py",
        "fedmb/cli/template/pyproject.toml",
        "fedmb/bundle/clients/app.py",
        "fedmb/bundle/clients/client.toml",
        "fedmb/bundle/server/app.py",
        "fedmb/bundle/server/server.toml",
        "fedmb/bundle/streams/stream.toml",
    ],
)
def test_wheel_holds(wheel, part):
    assert part in zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_nothing_compiled_here(wheel):
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".pyc")]


def test_installed_wheel_simulates_outside_the_checkout(installed, tmp_path):
    away = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    where = run(sys.executable, "-c", "import fedmb; print(fedmb.__file__)", cwd=tmp_path, **away)

    run(sys.executable, "-m", "fedmb", "simulate", "--rounds", "2", "--run-dir", "run", cwd=tmp_path, **away)

    assert Path(where.strip()).is_relative_to(installed)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert (tmp_path / "run" / "config.toml").exists()


def test_installed_wheel_makes_a_new_application(installed, tmp_path):
    away = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}

    run(sys.executable, "-m", "fedmb", "new", "mine", cwd=tmp_path, **away)

    assert (tmp_path / "mine" / "clients" / "app.py").exists()
