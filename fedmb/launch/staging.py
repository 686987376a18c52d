"""The app that Flower sends to the server and to every client: the process folders, and nothing beside them.

The library stays out, since in Flower's bundle it would shadow the installed one. An app of the user's own may name
more files in `fab-include` of its pyproject.toml, such as its task.
"""

from __future__ import annotations

import shutil
import tomllib
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError
from fedmb.settings.toml import key_text, value_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

APP = "fedmb-app"  # Flower takes letters, digits and hyphens in a directory's name
FOLDERS = ("clients", "server")
SUFFIXES = {".py", ".toml"}  # other files of the process folders, such as a Dockerfile, are for people
SETTINGS_KEY = "settings"


def stage(app: Path, place: Path) -> Path:
    """Copy what travels of `app` into a new directory in `place`, beside a pyproject.toml that names each file.

    Raises:
        SettingsError: `app` lacks an app.py, its pyproject.toml is broken or names files that do not exist.
    """
    for folder in FOLDERS:
        if not (app / folder / "app.py").is_file():
            raise SettingsError(
                f"an app must have {folder}/app.py, {app} has none; make one with `fedmb new`, or leave --app out"
            )
    own = _project(app)
    staged = place / APP
    travelling = sorted({*_process_files(app), *_named_files(app, own)})
    for path in travelling:
        target = staged / path.relative_to(app)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    names = ["/" + path.relative_to(app).as_posix() for path in travelling]
    (staged / "pyproject.toml").write_text(_pyproject(own, names), encoding="utf-8")
    return staged


def _project(app: Path) -> Mapping[str, Any]:
    """The app's pyproject.toml; empty where there is none or it is not about a Flower app."""
    file = app / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} must be TOML, got: {error}; mend it") from error
    return project if "app" in project.get("tool", {}).get("flwr", {}) else {}


def _process_files(app: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in (app / folder).rglob("*"):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def _named_files(app: Path, project: Mapping[str, Any]) -> Iterator[Path]:
    """Files that the app itself sends along."""
    patterns = project.get("tool", {}).get("flwr", {}).get("app", {}).get("fab-include", [])
    for pattern in patterns:
        found = [path for path in app.glob(pattern.removeprefix("/")) if path.is_file()]
        if not found:
            raise SettingsError(
                f"every pattern of fab-include must match a file, {pattern!r} matches none in {app}; leave it out",
                key="fab-include",
            )
        yield from (path for path in found if "__pycache__" not in path.parts)


def _pyproject(own: Mapping[str, Any], names: list[str]) -> str:
    """A pyproject.toml for Flower: the app's own name and settings, the files by name, the key for our settings."""
    project, app = own.get("project", {}), own.get("tool", {}).get("flwr", {}).get("app", {})
    components = {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
    sections = {
        ("project",): {"name": project.get("name", APP), "version": project.get("version", "0.1.0")},
        ("tool", "flwr", "app"): {"publisher": app.get("publisher", "fedmb"), "fab-include": names},
        ("tool", "flwr", "app", "components"): components | app.get("components", {}),
        # Flower overrides only keys that exist here.
        ("tool", "flwr", "app", "config"): {**app.get("config", {}), SETTINGS_KEY: ""},
    }
    lines = []
    for at, values in sections.items():
        lines += [
            f"[{key_text(*at)}]",
            *(f"{key_text(name)} = {value_text(value)}" for name, value in values.items()),
            "",
        ]
    return "\n".join(lines)
