"""A client's end of shared memory: the same streams, for a client on the service's own machine.

The service says in its welcome where its socket is; a client that is on the same start of the same machine, and finds
the socket, goes on there. Nothing but headers of 32 bytes crosses the socket: rows are gathered by the service straight
into slots of memory that both have, and are read there.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from fedmb.errors import FedmbError, Unreachable
from fedmb.replay.frame_socket import FrameSocket
from fedmb.replay.remote_stream import welcomed
from fedmb.replay.shared_arena import Arena, boot
from fedmb.replay.wire_format import Kind, json_frame

if TYPE_CHECKING:
    from fedmb.replay.shared_arena import Wanted
    from fedmb.replay.wire_format import Hello

CONNECT_SECONDS = 5.0
_MOST = 1 << 31  # bytes of an answer: whatever the service sends, which we chose


class SharedStream:
    """A stream beside shared memory.

    Args:
        share: what the service's welcome says of it.
        hello: of this client; the ticket is filled in.
        name: Sample, Write or Ask.
        wanted: memory to share.

    Raises:
        Unreachable: the service is not on this machine, or cannot be reached here.
        FedmbError: it refuses; the class says why.
    """

    def __init__(self, share: dict[str, Any], hello: Hello, name: str, wanted: Wanted) -> None:
        if not boot() or share.get("boot") != boot():
            raise Unreachable("shared memory is for processes of one machine, the service runs on another; use gRPC")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._stream = FrameSocket(connection, _MOST)
        try:
            self._stream.wait_for(CONNECT_SECONDS)
            connection.connect(f"\0{share.get('socket')}")
            said = hello._replace(ticket=str(share.get("ticket"))).encoded().decode()
            asked = {"hello": said, "stream": name, "slots": wanted.num_slots, "slot_bytes": wanted.slot_bytes}
            self._stream.send(json_frame(Kind.SHARE, asked))
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            self.arena: Arena | None = Arena(descriptors[0], wanted) if descriptors else None
            self.welcome = welcomed(self._stream.receive(CONNECT_SECONDS))
        except OSError as error:
            self._stream.close()
            raise Unreachable(f"the service's socket must be reachable, got {error}; use gRPC") from error
        except FedmbError:
            self._stream.close()
            raise

    def send(self, message: bytes) -> None:
        """Send one frame."""
        try:
            self._stream.send(message)
        except OSError as error:
            raise self._ended(str(error)) from error

    def receive(self, timeout: float | None) -> bytes | bytearray:
        """As `Stream.receive` says."""
        try:
            found = self._stream.receive(timeout)
        except BlockingIOError:
            raise TimeoutError from None
        except TimeoutError:
            raise
        except OSError as error:
            raise self._ended(str(error)) from error
        if not found:
            raise self._ended("it closed the socket")
        return found

    def close(self) -> None:
        """End it; memory stays as long as arrays lie in it."""
        self._stream.close()

    def _ended(self, reason: str) -> Unreachable:
        return Unreachable(f"a replay service must run to answer, it does not: {reason}; connect again")
