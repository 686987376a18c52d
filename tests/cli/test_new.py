"""A new application is a copy for the user to own, and it is never laid over something."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedmb import launch
from fedmb.cli import main
from fedmb.cli.new import checked_name, create
from fedmb.errors import SettingsError
from fedmb.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Process folders with one file each, as a bundle."""
    bundle = tmp_path / "bundle"
    for folder in launch.PROCESS_FOLDERS:
        (bundle / folder / "__pycache__").mkdir(parents=True)
        (bundle / folder / "__pycache__" / "app.pyc").touch()
        (bundle / folder / "app.py").write_text(f"# {folder}\n")
        (bundle / folder / f"{folder}.toml").write_text("port = 1\n")
    monkeypatch.setattr(launch, "bundle", lambda: bundle)
    return bundle


def test_new_makes_an_application(place, tmp_path, capsys):
    target = tmp_path / "deep" / "my_app"

    assert main(["new", str(target)]) == 0

    made = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    parts = {f"{folder}/{name}" for folder in launch.PROCESS_FOLDERS for name in ("app.py", f"{folder}.toml")}
    assert made == parts | {"task.py", "settings.toml", "pyproject.toml", "README.md"}
    assert (target / "clients" / "app.py").read_text() == "# clients\n"
    assert f"cd {target}" in capsys.readouterr().out


def test_the_copy_is_an_app_that_flower_takes(place, tmp_path):
    create(tmp_path / "my_app")

    project = tomllib.loads((tmp_path / "my_app" / "pyproject.toml").read_text())

    assert project["project"]["name"] == "my-app"
    assert project["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "server.app:app",
        "clientapp": "clients.app:app",
    }


def test_the_name_is_written_where_it_belongs(place, tmp_path):
    main(["new", str(tmp_path / "x"), "--name", "meters"])

    assert (tmp_path / "x" / "README.md").read_text().startswith("# meters\n")
    assert "$name" not in (tmp_path / "x" / "settings.toml").read_text()


def test_the_copy_runs(place, tmp_path):
    create(tmp_path / "mine")
    command = [
        sys.executable,
        "-m",
        "fedmb",
        "simulate",
        "--config",
        "settings.toml",
        "--rounds",
        "2",
        "--run-dir",
        "run",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(command, cwd=tmp_path / "mine", env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert 'task = "task:Rings"' in (tmp_path / "mine" / "run" / "config.toml").read_text()


def test_an_empty_folder_may_be_used(place, tmp_path):
    (tmp_path / "empty").mkdir()

    create(tmp_path / "empty")

    assert (tmp_path / "empty" / "task.py").exists()


def test_a_folder_that_holds_something_is_left_alone(place, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    assert main(["new", str(tmp_path / "mine")]) is ExitCode.SETTINGS
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_file_is_no_folder(place, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="needs an empty folder"):
        create(tmp_path / "file")


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a.b", "a b", "é", "a" * 33])
def test_a_name_that_flower_refuses_is_refused_here(name, place, tmp_path):
    with pytest.raises(SettingsError, match="give --name"):
        create(tmp_path / "x", name)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a", "A1", "my-app", "a" * 32])
def test_a_name_that_flower_takes_is_taken(name):
    assert checked_name(name) == name
