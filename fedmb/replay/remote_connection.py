"""How a client finds its service, and finds it again: a gRPC channel, or shared memory on one machine."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from fedmb.errors import FedmbError, SettingsError, Unreachable
from fedmb.replay.remote_stream import HELLO_KEY, GrpcStream
from fedmb.replay.shared_path import SharedStream
from fedmb.replay.wire_format import Hello, schema_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.replay.remote_stream import Stream
    from fedmb.replay.service_access import Reaching
    from fedmb.replay.shared_arena import Wanted

logger = logging.getLogger(__name__)

Transport: TypeAlias = Literal["auto", "grpc", "shared"]
CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts to reach a service that does not answer
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # the service's own limit holds
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.use_local_subchannel_pool", 1),  # or a new client would wait for the pause of one that just failed
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]

T = TypeVar("T")


class Connection:
    """What a client knows of its service. For any number of threads.

    Args:
        reaching: the service's address and what proves who we are.
        table: its name.
        schema: columns that the caller means; None takes the table's.
        transport: "auto" takes shared memory where it can be had, the others insist.
        reconnect_seconds: how long to look for a service that has gone, before `Unreachable` is raised.

    Raises:
        Unreachable: nobody answers there.
        FedmbError: the service refuses; the class says why.
    """

    def __init__(
        self, reaching: Reaching, table: str, *, schema: Schema | None, transport: Transport, reconnect_seconds: float
    ) -> None:
        self.address = reaching.address
        self._reaching, self._transport, self._reconnect_seconds = reaching, transport, reconnect_seconds
        self._hello = Hello(table, secrets.token_hex(8), schema)
        self._channel = reaching.channel(_OPTIONS)
        self._closed = threading.Event()
        self._share: dict[str, Any] | None = None
        try:
            first = self._over_grpc("Ask")
        except BaseException:
            self._channel.close()
            raise
        first.close()
        self.schema: dict[str, Column] = schema_in(first.welcome.get("columns"))
        self.drawn_schema: dict[str, Column] = schema_in(first.welcome.get("drawn"))
        self.capacity = int(first.welcome["capacity"])
        self.max_message_bytes = int(first.welcome["max_message_bytes"])
        self._hello = self._hello._replace(schema=self.schema)  # a successor with other columns is refused

    def open(self, name: str, wanted: Wanted) -> Stream:
        """A new stream, beside shared memory if that may be and can be had.

        Raises:
            Unreachable: nobody answers.
            FedmbError: the service refuses.
        """
        if self._transport == "grpc":
            return self._over_grpc(name)
        if self._share is None:
            self._over_grpc("Ask").close()
        if self._share is not None:
            try:
                return SharedStream(self._share, self._hello, name, wanted)
            except FedmbError as error:
                if self._transport == "shared":
                    raise
                logger.info("shared memory not used address=%s stream=%s reason=%s", self.address, name, error)
        elif self._transport == "shared":
            raise SettingsError(
                f"the service at {self.address} must share memory, it does not; leave transport at auto"
            )
        return self._over_grpc(name)

    def check_open(self) -> None:
        """Called once a new stream stands where `close` will find it.

        Raises:
            Unreachable: this was closed meanwhile.
        """
        if self._closed.is_set():
            raise Unreachable("a client must be open to be used, it was closed; make another")

    def retry(self, action: Callable[[], T], forget: Callable[[], None], deadline: float) -> T:
        """What `action` answers; when the service has gone, `forget` the stream and try again, for a while.

        Args:
            action: uses a stream, which it opens where there is none.
            forget: drops the stream.
            deadline: monotonic time at which a caller stops waiting.

        Raises:
            Unreachable: the service did not come back in time.
        """
        pause, until = FIRST_PAUSE, None
        while True:
            try:
                return action()
            except Unreachable as error:
                forget()
                self._share = None  # of the service that has gone; its successor has another
                now = time.monotonic()
                until = until or min(deadline, now + self._reconnect_seconds)
                if now + pause > until or self._closed.is_set():
                    raise
                logger.warning("service lost address=%s reason=%s", self.address, error)
                self._closed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        """Close the channel and every stream on it."""
        self._closed.set()
        self._channel.close()

    def _over_grpc(self, name: str) -> GrpcStream:
        headers: list[tuple[str, str | bytes]] = [(HELLO_KEY, self._hello.encoded()), *self._reaching.metadata()]
        stream = GrpcStream(self._channel, name, headers, timeout=CONNECT_SECONDS)
        self._share = stream.welcome.get("share")  # of this start of the service
        return stream
