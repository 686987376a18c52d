"""Runs one command and takes everything that it started down with it. A program of its own, standard library only.

    python -I keeper.py COMMAND [ARGUMENT ...]

Flower's processes start others that leave their process group, so ending a group or a process is not enough. A death
signal (PR_SET_PDEATHSIG) reaches one generation only, and only until the thread that forked ends. So this process
stands between: orphans below it become its children (PR_SET_CHILD_SUBREAPER), and its standard input is a pipe that
the kernel closes when fedmb ends, however it ends.

Standard input closed, or the command ended: the rest is asked to end (SIGTERM) and killed after a grace period.
SIGTERM to the keeper, or the command was killed: everything is killed at once; a process of Flower's for a message that
is asked to end says that it failed, and its SuperNode waits for ever for the answer. Its exit code is the command's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

GRACE_SECONDS = 2.0  # Flower's processes leave within 1 s, but for a SuperNode whose server is gone; fedmb promises 5 s
LOOK_SECONDS = 0.02  # between two looks at processes that are leaving
NO_SUCH_COMMAND, _KILLED = 127, 128  # what shells return; to the second they add the signal's number
_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit code."""
    _prctl(_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    killed = False

    def kill(_number: int, _frame: object) -> None:
        nonlocal killed
        killed = True

    signal.signal(signal.SIGTERM, kill)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for fedmb, which then asks us
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only to wake up
    child = _spawn(command)
    ended: dict[int, int] = {}
    asked = False
    while not (asked or killed or child in ended):
        ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
        asked = sys.stdin.fileno() in ready
        if woken in ready:
            os.read(woken, 4096)
        _reap(ended)
    killed = killed or os.WIFSIGNALED(ended.get(child, 0))
    deadline = time.monotonic() + GRACE_SECONDS
    told: set[int] = set()
    while rest := _descendants():
        if killed or time.monotonic() > deadline:
            _send(rest, signal.SIGKILL)
        else:
            _send(rest - told, signal.SIGTERM)
            told |= rest
        time.sleep(LOOK_SECONDS)
        _reap(ended)
    code = os.waitstatus_to_exitcode(ended[child])
    return code if code >= 0 else _KILLED - code


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _spawn(command: list[str]) -> int:
    """Fork and run; the child dies with the keeper even if that is killed."""
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == keeper:
            os.execvp(command[0], command)  # noqa: S606  # no shell on purpose
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(NO_SUCH_COMMAND)


def _reap(ended: dict[int, int]) -> None:
    """Note each process that has ended, own children and orphans alike."""
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    except ChildProcessError:
        return


def _descendants() -> set[int]:
    """Every process below this one, zombies included until they are reaped."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # "pid (name) state parent": the name may hold spaces and brackets
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended meanwhile
    below, grown = {os.getpid()}, True
    while grown:
        more = {process for process, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return below - {os.getpid()}


def _send(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
