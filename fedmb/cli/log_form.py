"""The log of a verb that runs until it is stopped: words for people, or one JSON object a line to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from fedmb.exit_codes import ExitCode


def logging_as(command: Callable[[], int], *, json: bool, name: str) -> int:
    """Run `command`, log on stderr; in JSON, what other programs say and how it fails are lines of the log too.

    Args:
        command: what the verb does; answers its exit code.
        json: one JSON object a line instead of words.
        name: what failed, in the log.
    """
    import logging

    from fedmb.errors import FedmbError
    from fedmb.telemetry.json_stderr import json_stderr
    from fedmb.telemetry.log_lines import show_all_warnings

    if not json:
        show_all_warnings()
        return command()
    with json_stderr():
        show_all_warnings(json=True)
        try:
            return command()
        except (FedmbError, OSError) as error:
            code = logged_failure(logging.getLogger("fedmb"), name, error)
            if code is None:
                raise
            return code


def logged_failure(log: Logger, name: str, error: Exception) -> ExitCode | None:
    """Log an error that is the user's to mend as one line; its exit code, or None for an error of another kind."""
    from fedmb.cli.failure import code_of, disk_refusal
    from fedmb.errors import FedmbError
    from fedmb.exit_codes import ExitCode

    refusal = str(error) if isinstance(error, FedmbError) else disk_refusal(error)
    if not refusal:
        return None
    reason = "; ".join([refusal, *getattr(error, "__notes__", ())])
    code = code_of(error) if isinstance(error, FedmbError) else ExitCode.DISK
    log.error(f"{name} failed error=%s reason=%s code=%d", type(error).__name__, reason, code)  # noqa: G004  # a word of ours
    return code
