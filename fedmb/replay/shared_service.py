"""The end of shared memory that a replay service has: a socket of this machine, and a thread for each stream on it.

Whoever connects must be the service's own user, or root, and show the ticket that the service gave to clients that it
let in over gRPC. Frames are those of gRPC's streams, but rows lie in memory that the service makes for each stream.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from fedmb.errors import DecodeError, FedmbError, NotEnoughRoom
from fedmb.replay.frame_socket import FrameSocket
from fedmb.replay.service_streams import STREAMS
from fedmb.replay.shared_arena import Arena, Wanted
from fedmb.replay.wire_format import Hello, Kind, frames, json_frame, json_of
from fedmb.replay.wire_refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmb.replay.service_door import Door
    from fedmb.replay.wire_format import Frame

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 30  # of all streams' memory together; one that finds too little left travels over gRPC
HELLO_SECONDS = 5.0  # within which a client must say who it is
SEND_SECONDS = 30  # a client that reads nothing for so long has lost its place
FOLLOWS, REFUSED = b"\1", b"\0"  # the first byte to a client: its memory comes with it, or a reason does
_BACKLOG = 16
_CREDENTIALS = struct.Struct("3i")  # process, user, group: ucred of unix(7)
_TIMEVAL = struct.Struct("ll")


class SharedService:
    """Serves clients of this machine until `close`.

    Args:
        door: who comes in.
        max_streams: at once.
        most_bytes: of memory for all of them.
    """

    def __init__(self, door: Door, max_streams: int, most_bytes: int = MOST_BYTES) -> None:
        self._door = door
        self._most_bytes, self._taken = most_bytes, 0
        self._room = threading.BoundedSemaphore(max_streams)
        self._lock = threading.Lock()
        self._streams: dict[FrameSocket, threading.Thread] = {}
        self.name = f"fedmb-replay-{secrets.token_hex(8)}"
        """Of its socket; in the kernel's own namespace, where nothing is left behind by a process that was killed."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(f"\0{self.name}")
        self._thread = threading.Thread(target=self._accept, name="replay-shared", daemon=True)

    def start(self) -> None:
        """Let clients in."""
        self._socket.listen(_BACKLOG)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more and end every stream."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        with self._lock:
            streams = list(self._streams.items())
        for connection, _ in streams:
            connection.close()
        for _, thread in streams:
            thread.join()

    def _accept(self) -> None:
        while not self._door.is_closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not _is_ours(connection) or not self._room.acquire(blocking=False):
                logger.info("stream refused peer=local reason=%s", "another user, or too many streams")
                connection.close()
                continue
            stream = FrameSocket(connection, self._door.max_message_bytes)
            thread = threading.Thread(target=self._serve, args=(stream, connection), name="replay-shared", daemon=True)
            with self._lock:
                self._streams[stream] = thread
            thread.start()

    def _serve(self, stream: FrameSocket, connection: socket.socket) -> None:
        taken, first = 0, REFUSED
        try:
            hello, name, wanted = self._hello(stream)
            taken = self._take(wanted)
            arena, descriptor = _made(wanted)
            with self._door.session(hello, stream.is_open, arena) as session:
                try:
                    socket.send_fds(connection, [FOLLOWS], [descriptor])
                    first = b""
                finally:
                    os.close(descriptor)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(SEND_SECONDS, 0))
                stream.send(self._door.welcome(session))
                for answer in STREAMS[name](session, _requests(stream)):
                    stream.send(answer)
        except FedmbError as error:
            logger.info("stream ended peer=local error=%s reason=%s", type(error).__name__, error)
            with suppress(OSError):
                connection.sendall(first)
                stream.send(json_frame(Kind.REFUSED, {**refusal(error), "ended": True}))
        except OSError as error:
            logger.info("stream ended peer=local reason=%s", error)
        except Exception:  # a fault of ours ends one stream, not the service
            logger.exception("stream failed peer=local")
        finally:
            stream.close()
            with self._lock:
                self._streams.pop(stream, None)
                self._taken -= taken
            self._room.release()

    def _hello(self, stream: FrameSocket) -> tuple[Hello, str, Wanted]:
        one = next(frames(stream.receive(HELLO_SECONDS)), None)
        if one is None:
            raise DecodeError("a client must say who it is, got nothing; speak its version")
        content = json_of(one.payload) if one.kind is Kind.SHARE else {}
        hello = Hello.decoded(str(content.get("hello", "")).encode())
        self._door.check_ticket(hello.ticket)
        name = content.get("stream")
        if name not in STREAMS:
            raise DecodeError(f"a stream must be one of {', '.join(STREAMS)}, got {str(name)[:20]!r}; name one")
        return hello, str(name), Wanted.checked(content.get("slots"), content.get("slot_bytes"), self._most_bytes)

    def _take(self, wanted: Wanted) -> int:
        """Room for a stream's memory."""
        size = wanted.num_slots * wanted.slot_bytes
        with self._lock:
            if self._taken + size > self._most_bytes:
                raise NotEnoughRoom(
                    f"shared memory of all clients must stay within {self._most_bytes} bytes, {self._taken} are taken "
                    f"and {size} were asked for; send rows over gRPC, or ask for less"
                )
            self._taken += size
        return size


def _requests(stream: FrameSocket) -> Iterator[Frame]:
    while message := stream.receive():
        yield from frames(message)


def _made(wanted: Wanted) -> tuple[Arena, int]:
    """New memory, and a descriptor of it to send away."""
    descriptor = Arena.make(wanted)
    try:
        return Arena(os.dup(descriptor), wanted), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _is_ours(connection: socket.socket) -> bool:
    """Whether the other process is this user's, or root's."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(peer)
    return user in {0, os.geteuid()}
