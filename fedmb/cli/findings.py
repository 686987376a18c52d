"""What checks found: a table for people, JSON for programs."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """Outcome of one check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """One thing that was looked at; `advice` is empty when there is nothing to do."""

    name: str
    status: Status
    found: str
    advice: str = ""


def print_json(found: list[Finding]) -> None:
    """One JSON object on stdout."""
    from json import dumps

    ok = all(finding.status is not Status.FAILED for finding in found)
    print(dumps({"ok": ok, "checks": [finding._asdict() for finding in found]}, indent=2))


def print_table(found: list[Finding]) -> None:
    """A table on stdout, readable without colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}
    table = Table("check", "status", box=box.SIMPLE)
    table.add_column("found", overflow="fold")  # a path cut short says nothing
    table.add_column("what to do", overflow="fold")
    for finding in found:
        status = Text(finding.status.value, style=colours[finding.status])
        table.add_row(Text(finding.name), status, Text(finding.found), Text(finding.advice))
    Console().print(table)
