"""Every ending has a named code, and every error says what to do."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fedmb import errors
from fedmb.cli import main
from fedmb.cli.failure import CODES, code_of, exit_code_of
from fedmb.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def raising(error):
    def command():
        raise error

    return command


@pytest.fixture(autouse=True)
def _keep_signal_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_exit_code_is_documented(code):
    page = (ROOT / "docs" / "EXIT_CODES.md").read_text()
    section = page.partition(f"\n## {code.value} {code.name}\n")[2].partition("\n## ")[0]

    assert any(line.startswith(f"| {code.value} | `{code.name}` |") for line in page.splitlines())
    assert all(f"- {part}" in section for part in ("Typical causes: ", "What to do: ", "A supervisor"))


def test_every_error_of_the_tree_has_a_code():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FedmbError)}

    assert kinds == CODES.keys()


def test_a_kind_of_error_defined_elsewhere_has_its_parents_code():
    class Worse(errors.ShapeError):
        pass

    assert code_of(Worse("")) is ExitCode.DATA


def test_an_error_is_a_sentence_and_a_hint(capsys):
    error = errors.SettingsError("batch size must be 1 to 4096, got 8192; raise sizing.max_size")

    code = exit_code_of(raising(error))

    assert code is ExitCode.SETTINGS
    assert capsys.readouterr().err == "error: batch size must be 1 to 4096, got 8192\n\nhint: raise sizing.max_size\n"


def test_an_error_without_a_way_out_has_no_hint(capsys):
    exit_code_of(raising(errors.FedmbError("broken")))

    assert capsys.readouterr().err == "error: broken\n"


def test_a_note_is_a_hint(capsys):
    error = errors.FedmbError("broken")
    error.add_note("mend it")

    exit_code_of(raising(error))

    assert capsys.readouterr().err == "error: broken\n\nhint: mend it\n"


def test_a_disk_that_is_full_is_said_with_its_place(capsys):
    code = exit_code_of(raising(OSError(errno.ENOSPC, "No space left on device", "/var/ring")))

    assert code is ExitCode.DISK
    said = capsys.readouterr().err
    assert said.startswith("error: a disk must take what is stored, got: No space left on device at /var/ring\n")
    assert "hint: free space" in said


def test_the_place_is_the_one_of_the_error_that_came_first(capsys):
    def command():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/var/log")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")  # as a file does that is closed on the way out

    assert exit_code_of(command) is ExitCode.DISK
    assert "No space left on device at /var/log\n" in capsys.readouterr().err


def test_another_error_of_the_system_is_a_fault_of_ours(capsys):
    assert exit_code_of(raising(OSError(errno.EBADF, "Bad file descriptor"))) is ExitCode.BUG
    assert "OSError: [Errno 9] Bad file descriptor" in capsys.readouterr().err


def test_every_mistake_in_settings_is_said(capsys):
    exit_code_of(raising(errors.SettingsError("a is wrong; mend a\nb is wrong; mend b")))

    assert capsys.readouterr().err.count("error:") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Abort(), ExitCode.INTERRUPTED),
        (SystemExit(), ExitCode.OK),
        (SystemExit(5), 5),
        (SystemExit("no"), ExitCode.FAILED),
        (RuntimeError("unforeseen"), ExitCode.BUG),
    ],
    ids=repr,
)
def test_every_ending_has_a_code(error, code, capsys):
    assert exit_code_of(raising(error)) == code


def test_an_unforeseen_error_shows_its_traceback(capsys):
    exit_code_of(raising(RuntimeError("unforeseen")))

    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("error: RuntimeError: unforeseen\n\nhint: report it with the traceback above\n")


def test_a_command_that_returns_is_a_success():
    assert exit_code_of(lambda: None) is ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["vrsion"], "No such command 'vrsion'"), (["version", "--jsn"], "No such option"), (["new"], "Missing argument")],
)
def test_a_wrong_command_line_is_said_and_helped(arguments, words, capsys):
    assert main(arguments) is ExitCode.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}")
    assert "hint: run `fedmb" in said


def test_sigterm_ends_a_command_after_its_cleaning_up():
    program = (
        "import sys, time; from fedmb.cli.failure import exit_code_of\n"
        "def command():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        while True: time.sleep(0.05)\n"  # short naps: a signal just before one is not missed
        "    finally: print('clean', flush=True)\n"
        "sys.exit(exit_code_of(command))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        os.kill(process.pid, signal.SIGTERM)

        assert process.stdout.read() == "clean\n"
        assert process.wait() == ExitCode.TERMINATED
