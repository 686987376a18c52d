"""The command line: one file for each verb, loaded when it is needed.

`import fedmb.cli` loads neither typer nor a framework; `main` builds the application, and a verb imports heavy
modules inside its function, so that `fedmb --help` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, one of `fedmb.exit_codes.ExitCode`."""
    from fedmb.cli.application import application
    from fedmb.cli.failure import exit_code_of

    return exit_code_of(lambda: application()(args=arguments, prog_name="fedmb", standalone_mode=False))
