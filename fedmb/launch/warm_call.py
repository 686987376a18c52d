"""Has a command run by the warm process that waits in a folder, or runs it. A program of its own, from standard parts.

    python -I warm_call.py [--lasting] FOLDER COMMAND [ARGUMENT ...]

It hands over its arguments, folder, environment and standard streams, waits, and ends with the command's exit code;
`fedmb.launch.warm` is the other side. Where nobody waits, it becomes the command, and so it does where the process that
waited was killed with a command that is to last. Whoever kills it kills the command.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

SOCKET = "warm.sock"
LASTING = "--lasting"
LENGTH = struct.Struct("<I")
CREDENTIALS = struct.Struct("3i")  # process, user, group: struct ucred of unix(7)
NO_ANSWER = 1  # exit code where the warm process was killed with the command


def main(folder: str, command: list[str], *, lasting: bool = False) -> int:
    """Exit code of the command, run over there."""
    code = handed_over(folder, command)
    if code is None or (lasting and not code):
        os.execv(command[0], command)  # noqa: S606  # no shell on purpose
    return code[0] if code else NO_ANSWER


def handed_over(folder: str, command: list[str]) -> bytes | None:
    """The command's exit code, in a byte; empty where the process that waited was killed, None where none waits."""
    try:
        line = called(folder)
    except OSError:
        return None
    with line:
        told = {
            "command": command,
            "folder": os.getcwd(),  # noqa: PTH109  # pathlib takes 8 ms to import
            "environment": dict(os.environ),
        }
        content = json.dumps(told).encode()  # what is not UTF-8 travels as Python's surrogates
        try:
            socket.send_fds(line, [LENGTH.pack(len(content))], [0, 1, 2])
            line.sendall(content)
            return line.recv(1)
        except ConnectionError:
            return b""


def called(folder: str) -> socket.socket:
    """A line to the process that waits in `folder`.

    Raises:
        OSError: nobody does, or another user.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    held = -1
    try:
        held = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        line.connect(f"/proc/self/fd/{held}/{SOCKET}")  # a Unix socket's path may have 107 bytes at most
        is_ours = peer(line) == os.getuid()
    except OSError:
        line.close()
        raise
    finally:
        if held >= 0:
            os.close(held)
    if not is_ours:
        line.close()
        raise PermissionError(f"{folder} is another user's")
    return line


def peer(line: socket.socket) -> int:
    """User of the process at the other end, as the kernel says."""
    user: int = CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1]
    return user


if __name__ == "__main__":
    lasts = sys.argv[1] == LASTING
    place, *words = sys.argv[2:] if lasts else sys.argv[1:]
    sys.exit(main(place, words, lasting=lasts))
