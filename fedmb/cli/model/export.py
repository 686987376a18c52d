"""`fedmb model export`: a version's weights for others, with what trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Directory of the run.")],
    version: Annotated[int | None, typer.Option(help="Number of the version; the newest if not given.")] = None,
    to: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("model.safetensors"),
    since: Annotated[int | None, typer.Option(help="Only the records that came after this version.")] = None,
    dead_letters: Annotated[
        list[str] | None,
        typer.Option(help="Where set-aside records lie: a folder, or their stream's URL; those in the run are found."),
    ] = None,
) -> int:
    """Write a version's weights, and trained-by.json beside them."""
    from fedmb.federation.versions import RECORD, export, shown

    about = export(run, version, to, since=since, dead_letters=dead_letters or [])
    print(shown(about))
    print(f"model       {to}, SHA-256 {about['model_sha256']}")
    print(f"record      {to.with_name(RECORD)}")
    return 0
