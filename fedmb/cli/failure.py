"""How a command ends: every error becomes a sentence on stderr and a named exit code."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from fedmb import errors
from fedmb.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

CODES: dict[type[errors.FedmbError], ExitCode] = {
    errors.FedmbError: ExitCode.FAILED,
    errors.SettingsError: ExitCode.SETTINGS,
    errors.DecodeError: ExitCode.DATA,
    errors.ShapeError: ExitCode.DATA,
    errors.NotEnoughData: ExitCode.DATA,
    errors.NotEnoughRoom: ExitCode.FAILED,
    errors.StaleUpdate: ExitCode.STALE,
    errors.VersionMismatch: ExitCode.VERSION,
    errors.CorruptLog: ExitCode.CORRUPT,
    errors.CorruptRing: ExitCode.CORRUPT,
    errors.CorruptCheckpoint: ExitCode.CORRUPT,
    errors.CorruptSnapshot: ExitCode.CORRUPT,
    errors.RateLimited: ExitCode.FAILED,
    errors.AlreadyOwned: ExitCode.OWNED,
    errors.Diverged: ExitCode.DIVERGED,
    errors.RecordsGone: ExitCode.GONE,
    errors.TooManyRejected: ExitCode.DATA,
    errors.Unreachable: ExitCode.UNREACHABLE,
    errors.AccessDenied: ExitCode.DENIED,
    errors.PrivacyExhausted: ExitCode.SETTINGS,
}


def exit_code_of(command: Callable[[], object]) -> int:  # noqa: PLR0911  # one return for each way to end
    """Run `command`; the exit code it returned, or the one that its error stands for.

    SIGTERM ends a command that has no handler of its own like Ctrl-C does, so `finally` blocks run.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command()
    except errors.FedmbError as error:
        return _say(str(error), code_of(error), getattr(error, "__notes__", ()))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "fedmb"
        return _say(f"{error.format_message()}; run `{path} --help`", ExitCode.USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), ExitCode.FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", ExitCode.INTERRUPTED)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else ExitCode.FAILED if stop.code else ExitCode.OK
    except Exception as error:  # noqa: BLE001  # the last frame: what nobody foresaw must still say what to do
        if refusal := disk_refusal(error):
            return _say(refusal, ExitCode.DISK)
        traceback.print_exc()
        return _say(f"{type(error).__name__}: {error}; report it with the traceback above", ExitCode.BUG)
    return code if isinstance(code, int) else ExitCode.OK


def disk_refusal(error: Exception) -> str:
    """What to say of a disk that does not take what must be stored; empty for an error that is not about that."""
    if not isinstance(error, OSError) or error.errno not in errors.DISK_ERRORS:
        return ""
    named: BaseException | None = error
    while named and not (isinstance(named, OSError) and named.errno in errors.DISK_ERRORS and named.filename):
        named = named.__context__  # what was closed on the way out failed too, and knows less
    place = f" at {named.filename}" if isinstance(named, OSError) else ""
    return (
        f"a disk must take what is stored, got: {error.strerror}{place}; free space or choose another disk, and start "
        "again: what was stored before is whole"
    )


def code_of(error: errors.FedmbError) -> ExitCode:
    """The code of the nearest class above the error's that has one."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def _say(message: str, code: ExitCode, notes: tuple[str, ...] | list[str] = ()) -> ExitCode:
    """Each line of `message` as `error:`; its way out, by our style what follows the last semicolon, as `hint:`."""
    blocks = []
    for line in message.splitlines() or [""]:
        sentence, _, way_out = line.rpartition("; ")
        blocks.append(f"error: {sentence}\n\nhint: {way_out}" if sentence else f"error: {line}")
    blocks += [f"hint: {note}" for note in notes]
    print("\n\n".join(blocks), file=sys.stderr)
    return code


def draining() -> threading.Event:
    """An event that SIGTERM or Ctrl-C sets; a second signal ends the process at once."""
    stop = threading.Event()

    def drain(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain)
    return stop


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(ExitCode.TERMINATED)
