"""What a Flower app and the resident trainer of its client say to each other, over a socket in the client's directory.

    app                                          trainer
    HELLO  JSON: version, fedmb, app's folder
    LEARN  the message's records         --->    learns
                                         <---    LEARNT   the reply's records, or
                                                 FAILED   JSON: the sentence that the server is to be told, or
                                                 AGAIN    JSON: why it starts afresh first; ask once more

The frames are those of `fedmb.replay.wire_format`: a length that is checked before memory is taken, a checksum, nothing
unpickled. The socket has mode 0600 in a directory of mode 0700, and each end asks the kernel who the other one is.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self

from fedmb.errors import AccessDenied
from fedmb.replay.frame_socket import FrameSocket
from fedmb.replay.wire_format import FrameOf, frame, frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE_VERSION = 1
MOST_BYTES = 1 << 31  # of a message: a model of 500 million fp32 parameters
SOCKET = "trainer.sock"
_CREDENTIALS = struct.Struct("3i")  # process, user, group: struct ucred of unix(7)
_WAITING = 8  # connections; a SuperNode does one message at a time


class Say(IntEnum):
    """What a frame is."""

    HELLO = 1
    LEARN = 2
    LEARNT = 64
    FAILED = 65
    AGAIN = 66


_SAID = {int(kind): kind for kind in Say}


class Line:
    """One end of a connection.

    Args:
        connection: a connected Unix socket; closed by this class.

    Raises:
        AccessDenied: the other end is another user's process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._frames = FrameSocket(connection, MOST_BYTES)
        self._heard: deque[FrameOf[Say]] = deque()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.getuid():
            self.close()
            raise AccessDenied(
                f"app and trainer must run as one user, got {os.getuid()} here and {user} there; start both as one"
            )

    def say(self, what: Say, *parts: bytes) -> None:
        """Send a frame.

        Raises:
            OSError: the other end has gone.
        """
        self._frames.send(frame(what, *parts))

    def tell(self, what: Say, content: dict[str, Any]) -> None:
        """Send a frame of JSON."""
        self.say(what, json.dumps(content).encode())

    def hear(self, seconds: float | None = None) -> FrameOf[Say] | None:
        """The next frame; None once the other end has gone.

        Raises:
            TimeoutError: none came in time.
            DecodeError: what came is no frame, or too long.
        """
        while not self._heard:
            try:
                message = self._frames.receive(seconds)
            except ConnectionError:
                return None
            if not message:
                return None
            self._heard += frames_of(message, _SAID)
        return self._heard.popleft()

    def close(self) -> None:
        """Hang up."""
        self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """A socket in `directory` that apps call; the directory is made, and closed to other users."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    with suppress(FileNotFoundError):
        (directory / SOCKET).unlink()  # of a trainer that was killed; the client's lock says that it has only one
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(directory) as place:
            door.bind(place)
        (directory / SOCKET).chmod(0o600)
        door.listen(_WAITING)
        yield door
    finally:
        door.close()
        with suppress(FileNotFoundError):
            (directory / SOCKET).unlink()


def called(directory: Path) -> Line:
    """A line to the trainer that listens in `directory`.

    Raises:
        OSError: nobody does.
        AccessDenied: another user does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(directory) as place:
            connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return Line(connection)


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """The socket's path through an open directory: a Unix socket's own may have 107 bytes at most."""
    held = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{held}/{SOCKET}"
    finally:
        os.close(held)
