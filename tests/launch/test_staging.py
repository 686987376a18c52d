"""What Flower sends to every client is the process folders, and what an app names besides."""

import subprocess
import tomllib
import zipfile

import pytest

from fedmb.cli.new import create
from fedmb.errors import SettingsError
from fedmb.launch import bundle, commands
from fedmb.launch.staging import APP, stage


def staged_files(staged):
    return {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}


@pytest.fixture
def app(tmp_path):
    for folder in ("clients", "server"):
        (tmp_path / "app" / folder / "__pycache__").mkdir(parents=True)
        (tmp_path / "app" / folder / "app.py").write_text("app = 1\n")
        (tmp_path / "app" / folder / "__pycache__" / "app.py").touch()
        (tmp_path / "app" / folder / "Dockerfile").touch()
    return tmp_path / "app"


def test_flowers_own_bundle_of_it_holds_clients_and_server_only(tmp_path):
    staged = stage(bundle(), tmp_path)
    command = [commands.executable("flwr"), "build", "--app", staged]
    subprocess.run(command, cwd=tmp_path, env=commands.environment(tmp_path / "home"), check=True, capture_output=True)

    (fab,) = tmp_path.glob("*.fab")
    names = zipfile.ZipFile(fab).namelist()

    assert {"clients/app.py", "server/app.py", "pyproject.toml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"clients", "server", "pyproject.toml", ".info"}


def test_caches_and_files_for_people_stay_here(app, tmp_path):
    assert staged_files(stage(app, tmp_path / "place")) == {"clients/app.py", "server/app.py", "pyproject.toml"}


def test_an_app_of_the_users_own_brings_its_task_name_and_settings(app, tmp_path):
    (app / "task.py").touch()
    (app / "secret.py").touch()
    (app / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "2.0"\n'
        '[tool.flwr.app]\npublisher = "me"\nfab-include = ["clients/*.py", "task.py"]\n'
        "[tool.flwr.app.config]\nrate = 0.5\n"
    )

    staged = stage(app, tmp_path / "place")

    project = tomllib.loads((staged / "pyproject.toml").read_text())
    assert staged_files(staged) == {"clients/app.py", "server/app.py", "task.py", "pyproject.toml"}
    assert project["project"] == {"name": "mine", "version": "2.0"}
    assert project["tool"]["flwr"]["app"]["publisher"] == "me"
    assert project["tool"]["flwr"]["app"]["config"] == {"rate": 0.5, "settings": ""}


def test_what_fedmb_new_makes_can_be_staged(tmp_path):
    create(tmp_path / "my-app")

    names = staged_files(stage(tmp_path / "my-app", tmp_path / "place"))

    assert {"task.py", "clients/app.py", "server/app.py"} <= names


def test_the_staged_folder_has_a_name_that_flower_takes(app, tmp_path):
    assert stage(app, tmp_path / "place_with.dots").name == APP


def test_a_folder_without_apps_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="an app must have clients/app"):
        stage(tmp_path, tmp_path / "place")


def test_a_pattern_that_matches_nothing_is_refused(app, tmp_path):
    (app / "pyproject.toml").write_text('[tool.flwr.app]\nfab-include = ["taks.py"]\n')

    with pytest.raises(SettingsError, match=r"'taks\.py' matches none"):
        stage(app, tmp_path / "place")


def test_a_broken_pyproject_is_refused(app, tmp_path):
    (app / "pyproject.toml").write_text("[tool")

    with pytest.raises(SettingsError, match="must be TOML"):
        stage(app, tmp_path / "place")
