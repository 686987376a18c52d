"""Frames over a socket of this machine, where a stream of bytes has no messages of its own."""

from __future__ import annotations

import contextlib
import socket

from fedmb.errors import DecodeError
from fedmb.replay.wire_format import HEADER, padded

_READ_BYTES = 1 << 16
_LENGTH_AT = 24  # in a header


class FrameSocket:
    """Sends messages of whole frames, and receives as many whole frames as there are.

    Args:
        connection: a stream; closed by this class.
        most: bytes of a frame; a longer one is refused before memory is taken for it.
    """

    def __init__(self, connection: socket.socket, most: int) -> None:
        self._socket = connection
        self._most = most
        self._begun = bytearray()
        self._read = memoryview(bytearray(_READ_BYTES))
        self._timeout = connection.gettimeout()

    def wait_for(self, timeout: float | None) -> None:
        """Let everything that follows take so long at most; None is without end."""
        if timeout != self._timeout:  # it costs a system call
            self._socket.settimeout(timeout)
            self._timeout = timeout

    def send(self, message: bytes) -> None:
        """Send frames, padded as `frames` expects them.

        Raises:
            OSError: the other end has gone, or reads nothing.
        """
        if self._timeout == 0:
            self.wait_for(None)
        self._socket.sendall(message.ljust(padded(len(message)), b"\0"))

    def receive(self, timeout: float | None = None) -> bytes:
        """One frame or more, whole; empty once the other end has closed.

        Raises:
            TimeoutError, BlockingIOError: none came in time; what had come of one is kept.
            DecodeError: a frame is longer than allowed.
            OSError: the other end has gone.
        """
        self.wait_for(timeout)
        while not (whole := self._whole()):
            count = self._socket.recv_into(self._read)
            if count == 0:
                return b""
            self._begun += self._read[:count]
        found = bytes(self._begun[:whole])
        del self._begun[:whole]
        return found

    def is_open(self) -> bool:
        """Whether the other end has not closed, as far as that shows without reading."""
        try:
            self.wait_for(0)
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """End both directions; wakes whoever waits in `receive`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _whole(self) -> int:
        """Bytes of the whole frames that have come."""
        at, size = 0, len(self._begun)
        while size - at >= HEADER.size:
            length = int.from_bytes(self._begun[at + _LENGTH_AT : at + _LENGTH_AT + 4], "little")
            if length > self._most:
                raise DecodeError(f"a frame must have {self._most} bytes at most, got {length}; send smaller ones")
            if at + HEADER.size + padded(length) > size:
                break
            at += HEADER.size + padded(length)
        return at
