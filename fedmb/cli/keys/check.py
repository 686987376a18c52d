"""`fedmb keys check`: do the keys in a folder work, and until when?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of the keys.")] = Path("keys"),
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Look through a folder of keys: dates, who signed what, who may read what; fails where one is of no use."""
    from fedmb.access.key_check import look_through
    from fedmb.cli.findings import Finding, Status, print_json, print_table
    from fedmb.exit_codes import ExitCode

    found = []
    for one in look_through(folder):
        status = Status.FAILED if not one.is_usable else Status.WARNING if one.advice else Status.OK
        found.append(Finding(one.name, status, one.found, one.advice))
    (print_json if json else print_table)(found)
    return ExitCode.CHECK if any(one.status is Status.FAILED for one in found) else ExitCode.OK
