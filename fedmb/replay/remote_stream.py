"""A client's end of one stream to a replay service: messages out, messages in, over gRPC or beside shared memory."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from fedmb.errors import Unreachable
from fedmb.replay.wire_format import Kind, frames, json_of
from fedmb.replay.wire_refusal import raised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.replay.shared_arena import Arena

SERVICE = "fedmb.replay.Replay"
HELLO_KEY = "fedmb-hello-bin"
ERROR_KEY = "fedmb-error"


class Stream(Protocol):
    """One stream to a service; one thread at a time."""

    welcome: dict[str, Any]
    """What the service said first."""
    arena: Arena | None
    """Memory shared with the service, where rows of this stream lie; None where they travel in messages."""

    def send(self, message: bytes) -> None:
        """Send one frame.

        Raises:
            Unreachable: the stream has ended.
        """
        ...

    def receive(self, timeout: float | None) -> bytes | bytearray:
        """A message of one frame or more.

        Raises:
            TimeoutError: none came in time.
            FedmbError: the stream has ended; `Unreachable` where another one may do better.
        """
        ...

    def close(self) -> None:
        """End it."""
        ...


class GrpcStream:
    """A stream over gRPC. A thread receives, so that batches arrive while the caller computes.

    Args:
        channel: to the service.
        name: Sample, Write or Ask.
        headers: hello and token.
        timeout: seconds for the service to answer at all.

    Raises:
        Unreachable: it does not answer.
        FedmbError: it refuses; the class says why.
    """

    arena: Arena | None = None

    def __init__(
        self, channel: grpc.Channel, name: str, headers: Sequence[tuple[str, str | bytes]], *, timeout: float
    ) -> None:
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._inbox: SimpleQueue[bytes | Exception] = SimpleQueue()
        self._end: Exception | None = None
        call = channel.stream_stream(f"/{SERVICE}/{name}")
        self._call = call(iter(self._outbox.get, None), metadata=tuple(headers))
        self._thread = threading.Thread(target=self._receive, name=f"replay-{name.lower()}", daemon=True)
        self._thread.start()
        try:
            self.welcome = welcomed(self.receive(timeout))
        except TimeoutError as error:
            self.close()
            raise Unreachable(
                f"a replay service must answer within {timeout:g} s, it did not; check its address"
            ) from error

    def send(self, message: bytes) -> None:
        """Send one frame; gRPC holds it until the service has room."""
        if self._end is not None:
            raise self._end
        self._outbox.put(message)

    def receive(self, timeout: float | None) -> bytes | bytearray:
        """As `Stream.receive` says."""
        if self._end is not None and self._inbox.empty():
            raise self._end
        try:
            found = self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait()
        except Empty:
            raise TimeoutError from None
        if isinstance(found, Exception):
            self._end = found
            raise found
        return found

    def close(self) -> None:
        """End it; what was sent and not answered may have been done."""
        self._end = self._end or Unreachable("a stream must be open to be used, it was closed; open another")
        self._outbox.put(None)
        self._call.cancel()
        self._thread.join()

    def _receive(self) -> None:
        try:
            for message in self._call:
                self._inbox.put(message)
            end: Exception = Unreachable("a replay service must run to answer, it ended the stream; connect again")
        except grpc.RpcError as error:
            end = failure(error)
        finally:
            self._outbox.put(None)  # or gRPC's own thread would wait for requests for ever
        self._inbox.put(end)


def welcomed(message: bytes | bytearray) -> dict[str, Any]:
    """What a service said first.

    Raises:
        FedmbError: it refused.
        Unreachable: it said something else.
    """
    for one in frames(message):
        if one.kind is Kind.WELCOME:
            return json_of(one.payload)
        if one.kind is Kind.REFUSED:
            raise raised(json_of(one.payload))
    raise Unreachable("a replay service must say welcome first, got something else; is it one of this version?")


def failure(error: grpc.RpcError) -> Exception:
    """A failure of gRPC as one of ours."""
    code, details = error.code(), str(error.details() or error.code().name)
    named = dict(error.trailing_metadata() or ()).get(ERROR_KEY)
    if named is not None:
        return raised({"error": named, "message": details})
    match code:
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unreachable(
                f"a replay service must have room for a request, it had none: {details}; send less at once"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unreachable(f"a replay service must be at the address, something else is: {details}; check it")
    return Unreachable(f"a replay service must answer, it did not: {details}; check that it runs, and its address")
