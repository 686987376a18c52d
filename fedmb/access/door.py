"""The nodes' door: the only port beyond loopback, and the only part of Flower's API behind it is the fleet's.

    path known?         only what a SuperNode calls; neither control nor runtime API
    key listed?         its headers say which, and prove it
    new?                each signed timestamp comes in once
    small enough?       refused by its declared length, or cut where it passes the limit; never read whole
    pass on             to the SuperLink on loopback, piece by piece; the answer comes back the same way

The SuperLink checks the headers again, and that a node speaks for itself alone. Flower 1.41's SuperLink has one port
for everything, reads a body before it asks whose it is, and lets whoever reaches that port start runs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from fedmb.access.node_keys import fingerprint
from fedmb.access.refusal import Reason, Refused
from fedmb.access.refusal_log import RefusalLog
from fedmb.access.registering import register
from fedmb.access.seen_timestamps import SeenTimestamps
from fedmb.access.signed_headers import proved_time, shown_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from fedmb.access.door_limits import DoorLimits
    from fedmb.access.node_keys import NodeKeys

FLEET = "/v1/fleet/"
KNOCK = FLEET + "knock"  # ours: answers whether a node would be let in
ACTIVATE, PULL, PUSH = FLEET + "activate-node", FLEET + "pull-messages", FLEET + "push-object"
SELF_REGISTERING = frozenset({FLEET + "register-node", FLEET + "unregister-node"})
"""By which Flower lets any key in; closed where the keys are listed."""
PATHS = frozenset(
    FLEET + name
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a SuperNode of Flower 1.41 calls (flwr/supernode/fleet_http_client.py)."""
_PASSED = ("content-type", "accept")  # besides Flower's own headers and the length
_ANSWERED = ("content-type", "content-length")
_FLOWERS = "flwr-"
_SUPERLINK_CONNECTIONS = 64  # at once: the SuperLink holds a request's whole body, so this times the limit bounds it


class Door:
    """An ASGI application that passes on what nodes may ask.

    Args:
        superlink: client of the SuperLink, of `to_superlink`; left open by this.
        limits: of sizes and times.
        keys: of the nodes that are let in; None for all, which only loopback may.
        opened: when the door opened.
    """

    def __init__(
        self, superlink: httpx.AsyncClient, limits: DoorLimits, keys: NodeKeys | None, opened: dt.datetime
    ) -> None:
        self._limits = limits
        self._keys = keys
        self._seen = SeenTimestamps(opened)
        self._log = RefusalLog()
        self._sent: dict[bytes, int] = {}  # bytes of the reply under way, by key
        self._paths = PATHS if keys is not None else PATHS | SELF_REGISTERING
        self._superlink = superlink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        response: Response | None = None
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                response = await self._response(request)
                await response(scope, receive, send)
        except Refused as refused:
            await self._refuse(request, refused)(scope, receive, send)
        except TimeoutError:
            if response is not None:
                raise  # an answer that has begun cannot become another; uvicorn closes the connection
            slow = Refused(
                Reason.SLOW,
                f"a request must be over within {self._limits.request_seconds:g} s, it was not; use a faster line, or "
                "raise the server's door.request_seconds",
            )
            await self._refuse(request, slow)(scope, receive, send)
        except ClientDisconnect:
            return

    async def _response(self, request: Request) -> Response:
        path: str = request.scope["path"]  # as it was sent; an URL would be put together with the Host header
        if request.method != "POST" or path not in self._paths | {KNOCK}:
            raise Refused(
                Reason.PATH,
                f"nodes may call a SuperNode's paths below {FLEET}, got {request.method} {path[:80]}; run "
                "other commands on the server's machine",
            )
        key = self._let_in(request)
        if path == KNOCK:
            return Response(status_code=204)
        if key is not None and path == ACTIVATE:
            assert self._keys is not None, "a key is found in the list"
            await register(self._superlink, key, self._keys.names[key])
        return await self._passed_on(request, path, key)

    def _let_in(self, request: Request) -> bytes | None:
        """The listed key by which a request is signed; None where everybody is let in."""
        if self._keys is None:
            return None
        pem = shown_key(request.headers)
        if pem not in self._keys.names:
            raise Refused(
                Reason.UNKNOWN_KEY,
                f"a node's key must be on the server's list, {fingerprint(pem)} is not; put its .pub file into the "
                "folder --node-keys of the server",
            )
        self._seen.note(pem, proved_time(request.headers, pem, dt.datetime.now(dt.UTC)))
        return pem

    async def _passed_on(self, request: Request, path: str, key: bytes | None) -> Response:
        declared = request.headers.get("content-length", "")
        reply = key if path == PUSH else None
        if declared.isdecimal():
            self._check_size(int(declared), path, reply, more=int(declared))
        # Looked up one by one: of a header that came twice, the SuperLink gets the one that was checked here.
        told = request.headers
        headers = {name: told[name] for name in told if name in _PASSED or name.startswith(_FLOWERS)}
        if declared:
            headers["content-length"] = declared
        asked = self._superlink.build_request("POST", path, headers=headers, content=self._body(request, path, reply))
        try:
            answer = await self._superlink.send(asked, stream=True)
        except httpx.TransportError as error:
            raise Refused(
                Reason.SUPERLINK, f"the SuperLink must answer the door, it does not ({error!r}); read superlink.log"
            ) from error
        if key is not None and path == PULL and answer.is_success and answer.headers.get("content-length") != "0":
            self._sent[key] = 0  # a message came, to which one reply may go
        kept = {name: value for name, value in answer.headers.items() if name in _ANSWERED or name.startswith(_FLOWERS)}
        return StreamingResponse(_closing(answer), answer.status_code, kept)

    async def _body(self, request: Request, path: str, reply: bytes | None) -> AsyncIterator[bytes]:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            self._check_size(size, path, reply, more=len(piece))
            if reply is not None:
                self._sent[reply] = self._sent.get(reply, 0) + len(piece)
            yield piece

    def _check_size(self, size: int, path: str, reply: bytes | None, *, more: int) -> None:
        """Refuse a request of `size` bytes, or a reply of which `more` come, beyond the limits."""
        limits = self._limits
        if size > limits.max_request_bytes:
            what, name = f"a request must have at most {limits.max_request_bytes:,} bytes", "max_request_bytes"
        elif reply is not None and self._sent.get(reply, 0) + more > limits.max_reply_bytes:
            what, name = f"a reply must have at most {limits.max_reply_bytes:,} bytes", "max_reply_bytes"
        else:
            return
        raise Refused(Reason.SIZE, f"{what}, that to {path} has more; send less, or raise the server's door.{name}")

    def _refuse(self, request: Request, refused: Refused) -> Response:
        self._log.note(request.client.host if request.client else "unknown", refused)
        # Closed, so that nobody goes on sending a body that is not wanted.
        return Response(refused.body, refused.status, {"connection": "close"}, media_type="application/json")


def to_superlink(url: str, seconds: float) -> httpx.AsyncClient:
    """A client of the SuperLink.

    Args:
        url: of the SuperLink on loopback.
        seconds: that it may be silent.
    """
    return httpx.AsyncClient(
        base_url=url,
        trust_env=False,  # no proxy stands between two processes of one machine
        timeout=httpx.Timeout(seconds, connect=5.0, pool=None),
        limits=httpx.Limits(max_connections=_SUPERLINK_CONNECTIONS),
    )


async def _closing(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
