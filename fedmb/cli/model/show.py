"""`fedmb model show`: which records trained a version."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def show(
    run: Annotated[Path, typer.Argument(help="Directory of the run.")],
    version: Annotated[int | None, typer.Option(help="Number of the version; the newest if not given.")] = None,
    since: Annotated[int | None, typer.Option(help="Only what came after this version.")] = None,
    dead_letters: Annotated[
        list[str] | None,
        typer.Option(help="Where set-aside records lie: a folder, or their stream's URL; those in the run are found."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> int:
    """Say which records and rows trained a version of the model."""
    from json import dumps

    from fedmb.federation.versions import described, shown

    about = described(run, version, since=since, dead_letters=dead_letters or [])
    print(dumps(about, indent=2) if json else shown(about))
    return 0
