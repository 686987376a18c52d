"""Replay tables served to other processes and machines: gRPC streams of raw bytes, no compiled messages.

Each stream (`Sample`, `Write`, `Ask`) opens with a hello in its headers, which says the version, the table and the
columns that the client means, and with the token where there is one; what does not fit is refused before a byte is
read. A stream holds one thread and, beside what gRPC's own window holds, one message.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

import grpc

from fedmb.errors import AccessDenied, FedmbError, Unreachable
from fedmb.replay.remote_stream import ERROR_KEY, HELLO_KEY, SERVICE
from fedmb.replay.service_access import TOKEN_KEY, admits
from fedmb.replay.service_door import Door
from fedmb.replay.service_streams import STREAMS
from fedmb.replay.shared_service import SharedService
from fedmb.replay.wire_format import Hello, request
from fedmb.replay.wire_refusal import MOST_CHARACTERS, STATUS, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from fedmb.replay.served_table import ServedTable
    from fedmb.replay.service_access import Listening

logger = logging.getLogger(__name__)


MAX_MESSAGE = 16 << 20  # bytes
MAX_STREAMS = 256
GRACE_SECONDS = 0.5  # for answers that are under way when the service stops
_MAX_HEADERS = 64 << 10  # bytes; a hello names every column
_KEEPALIVE = 20_000  # milliseconds; a client that was cut off is noticed within twice as long
"""Options of both ends are named by gRPC's include/grpc/impl/channel_arg_names.h."""


class ReplayService:
    """Serves tables until `close`; also a context manager.

    Args:
        tables: by the names that clients know them by.
        listening: where, and who may come.
        max_message_bytes: of a request, and of a batch; larger ones are refused.
        max_streams: at once; a learner has two, an actor one.
        share: let clients of this machine use shared memory.

    Raises:
        SettingsError: it cannot listen there.
    """

    def __init__(
        self,
        tables: Mapping[str, ServedTable],
        listening: Listening,
        *,
        max_message_bytes: int = MAX_MESSAGE,
        max_streams: int = MAX_STREAMS,
        share: bool = True,
    ) -> None:
        self.tables = dict(tables)
        self.door = Door(self.tables, max_message_bytes)
        self._bearer = listening.bearer()
        self._shared = _sharing(self.door, max_streams) if share else None
        self._server = grpc.server(
            ThreadPoolExecutor(max_streams, thread_name_prefix="replay"),
            handlers=[_Handlers(self)],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", _MAX_HEADERS),
                ("grpc.so_reuseport", 0),  # or a second service on the port would take half of the clients
                ("grpc.keepalive_time_ms", _KEEPALIVE),
                ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE // 4),
            ],
            maximum_concurrent_rpcs=max_streams,
        )
        self.address = listening.bind(self._server)
        """host:port that it listens on."""

    def start(self) -> None:
        """Let clients in."""
        if self._shared:
            self._shared.start()
        self._server.start()

    def close(self) -> None:
        """Let nobody in any more, finish what is under way, and end every stream; the tables stay open."""
        self.door.close()
        ended = self._server.stop(GRACE_SECONDS)
        if self._shared:
            self._shared.close()
        ended.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def admits(self, headers: Mapping[str, str | bytes]) -> bool:
        """Whether a client with these headers may come in."""
        return admits(self._bearer, headers.get(TOKEN_KEY))

    def stream(self, name: str, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serve one stream to its end."""
        headers = dict(context.invocation_metadata())
        try:
            hello = Hello.decoded(headers.get(HELLO_KEY, b""))
            with self.door.session(hello, lambda: bool(context.is_active())) as session:
                yield self.door.welcome(session, self._shared.name if self._shared else "")
                yield from STREAMS[name](session, map(request, messages))
            if self.door.is_closed:
                raise Unreachable("a replay service must run to answer, this one ends; connect again in a moment")
        except FedmbError as error:
            _abort(context, error)


def _sharing(door: Door, max_streams: int) -> SharedService | None:
    """The end of shared memory; None on a machine that does not have what it needs."""
    try:
        return SharedService(door, max_streams)
    except OSError as error:
        logger.warning("shared memory not offered reason=%s", error)
        return None


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Which method serves which call."""

    def __init__(self, service: ReplayService) -> None:
        self._service = service

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a call; a call without the token gets one that refuses, before anything of it is read."""
        _, _, name = details.method.rpartition("/")
        if details.method != f"/{SERVICE}/{name}" or name not in STREAMS:
            return None
        if not self._service.admits(dict(details.invocation_metadata)):
            return grpc.stream_stream_rpc_method_handler(_deny)
        return grpc.stream_stream_rpc_method_handler(
            lambda messages, context: self._service.stream(name, messages, context)
        )


def _deny(_messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    _abort(context, AccessDenied("a client must show the service's token, got none or another; give its token_file"))
    yield b""


def _abort(context: grpc.ServicerContext, error: FedmbError) -> NoReturn:
    content = refusal(error)
    logger.info("stream ended peer=%s error=%s reason=%s", context.peer(), content["error"], content["message"])
    context.set_trailing_metadata([(ERROR_KEY, content["error"])])
    status = grpc.StatusCode[STATUS.get(content["error"], "INTERNAL")]
    context.abort(status, content["message"][:MOST_CHARACTERS])
    raise AssertionError("abort raises")
