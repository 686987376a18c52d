"""`fedmb new`: an application for the user to own."""

import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

FILLED = {".toml", ".md"}  # template files that carry the name; Python files are copied as they are
LONGEST_NAME = 32  # Flower refuses longer names, and any character but letters, digits and hyphens


def new(
    directory: Annotated[Path, typer.Argument(help="Folder to make; it must be empty or not exist yet.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the application; the folder's by default.")] = None,
) -> None:
    """Make a folder with a task, settings and the processes' code for you to own."""
    create(directory, name)
    print(f"made {directory}; next: cd {directory} && python -m fedmb simulate --config settings.toml")


def create(directory: Path, name: str | None = None) -> None:
    """Copy the template and the process folders into `directory`.

    Raises:
        SettingsError: the directory holds something, or the name is none that Flower takes.
    """
    from fedmb.errors import SettingsError
    from fedmb.launch import PROCESS_FOLDERS, bundle

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SettingsError(f"a new application needs an empty folder, got {directory}; choose another or empty it")
    chosen = checked_name(re.sub(r"[^A-Za-z0-9]+", "-", directory.resolve().name).strip("-") if name is None else name)
    place = bundle()
    directory.mkdir(parents=True, exist_ok=True)
    for folder in PROCESS_FOLDERS:
        shutil.copytree(place / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with as_file(files("fedmb.cli") / "template") as template:
        for source in sorted(template.iterdir()):
            if source.is_file():
                text = source.read_text(encoding="utf-8")
                text = Template(text).substitute(name=chosen) if source.suffix in FILLED else text
                (directory / source.name).write_text(text, encoding="utf-8")


def checked_name(name: str) -> str:
    """`name`, if Flower takes it as an application's.

    Raises:
        SettingsError: it does not.
    """
    from fedmb.errors import SettingsError

    if re.fullmatch(rf"[A-Za-z0-9](?:[A-Za-z0-9-]{{0,{LONGEST_NAME - 2}}}[A-Za-z0-9])?", name):
        return name
    raise SettingsError(
        f"an application's name has 1 to {LONGEST_NAME} letters, digits and inner hyphens, got {name!r}; give --name",
        key="name",
    )
