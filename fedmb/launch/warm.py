"""Runs programs again and again without starting them again: in forks of a process that has imported all they need.

Flower starts `flwr-clientapp` for every message, and all it does before it asks for that message, 1.2 s of CPU time, is
import; `flower-superexec`, which starts those, imports much the same. The file that `caller` writes stands before
Flower's on the PATH and calls the process that waits (see `fedmb.launch.warm_call`); that one forks, and the fork runs
the program with the caller's arguments, folder, environment and standard streams: a process of its own for each message
still, 20 ms old.

A fork has one thread and must come from a process that has one; imports start none.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import selectors
import shlex
import signal
import socket
import struct
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fedmb.launch.warm_call import LASTING, LENGTH, SOCKET, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Programs = Mapping[str, Callable[[], object]]

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 22  # of arguments and environment, of which Linux takes 2 MiB
STREAMS = 3  # input, output, errors
CALL_SECONDS = 5.0  # for a caller to say what it wants, which takes it a millisecond
# What Flower starts for each message, and what starts that: whether it lasts as long as the SuperNode.
FORKED = {"flwr-clientapp": False, "flower-superexec": True}
_CALL = Path(__file__).with_name("warm_call.py")


def caller(file: Path, folder: Path, program: str, *, lasting: bool = False) -> None:
    """Write an executable that has `program`, a path, run by the process that waits in `folder`.

    Where that process is killed the call ends with it, unless the program is a `lasting` one: then the caller runs it.
    """
    words = shlex.join([sys.executable, "-I", str(_CALL), *([LASTING] if lasting else []), str(folder), program])
    # Not Python's own first line: the kernel cuts a long one off and splits it at blanks.
    file.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    file.chmod(0o700)


@contextmanager
def waiting(folder: Path) -> Iterator[socket.socket]:
    """A socket in `folder` that callers find; the folder is made, and closed to other users."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            (folder / SOCKET).unlink()  # of a process that was killed
        door.bind(f"/proc/self/fd/{held}/{SOCKET}")
        door.listen()
        yield door
    finally:
        os.close(held)
        door.close()
        with suppress(FileNotFoundError):
            (folder / SOCKET).unlink()


def serve(door: socket.socket, programs: Programs) -> NoReturn:
    """Run the program that a call names, which reads `sys.argv`, in a fork for each call, until a signal ends us.

    Args:
        door: as `waiting` gives it.
        programs: functions, by the name of the file that a caller was written for.
    """
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only to wake up
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    lines: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is door:
                    line, _ = door.accept()
                    process = _begun(line, [door.fileno(), woken, wake, *map(_number, lines.values())], programs)
                    if process:
                        lines[process] = line
                        selector.register(line, selectors.EVENT_READ, process)
                elif key.fileobj == woken:
                    os.read(woken, 4096)
                else:  # the caller was killed, and so is what it asked for
                    selector.unregister(key.fileobj)
                    with suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)
            for process, code in _ended():
                line = lines.pop(process)
                with suppress(KeyError):
                    selector.unregister(line)
                with line, suppress(OSError):
                    line.sendall(bytes([code]))


def _number(line: socket.socket) -> int:
    return line.fileno()


def _ended() -> Iterator[tuple[int, int]]:
    """Forks that have ended, and their exit codes as shells tell them."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            yield found[0], code if code >= 0 else 128 - code


def _begun(line: socket.socket, ours: list[int], programs: Programs) -> int:
    """Id of a fork that runs the program for this caller; 0 where it said nothing that makes sense."""
    streams: list[int] = []
    try:
        line.settimeout(CALL_SECONDS)
        head, streams, _, _ = socket.recv_fds(line, LENGTH.size, STREAMS)
        told = json.loads(_read(line, _size(line, head, streams)))
        line.settimeout(None)
        program = programs[Path(told["command"][0]).name]
        if process := os.fork():
            return process
        _run(told, streams, [*ours, line.fileno()], program)
    except (OSError, ValueError, LookupError, struct.error) as error:  # of the caller; nothing was forked
        log.warning("call refused error=%r", error)
        line.close()
        return 0
    finally:
        for stream in streams:
            os.close(stream)


def _size(line: socket.socket, head: bytes, streams: list[int]) -> int:
    """Bytes that a caller of this user announces, with its streams."""
    (size,) = LENGTH.unpack(head)
    if peer(line) != os.getuid() or len(streams) != STREAMS or size > MOST_BYTES:
        raise ValueError(f"user {peer(line)}, {len(streams)} streams, {size} bytes")
    return int(size)


def _read(line: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = line.recv(size - len(parts))
        if not part:
            raise ConnectionError("the caller hung up")
        parts += part
    return bytes(parts)


def _run(told: dict[str, Any], streams: list[int], ours: list[int], program: Callable[[], object]) -> NoReturn:
    """Be the program: in the fork, from which nothing of what was there before may be unwound."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        for descriptor in ours:
            os.close(descriptor)
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        sys.argv = list(told["command"])
        code = _exit_code(program)
    except BaseException as error:  # noqa: BLE001  # as an interpreter does at its end
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(program: Callable[[], object]) -> int:
    try:
        program()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    return 0
