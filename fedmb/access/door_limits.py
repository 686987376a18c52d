"""How much a node may send, and for how long."""

from __future__ import annotations

from pydantic import Field

from fedmb.section import Section


class DoorLimits(Section):
    """What the nodes' door lets pass of one request and of one reply; only a server with TLS has a door."""

    max_request_bytes: int = Field(default=16 * 2**20, ge=2**16)
    """Largest body of one request. Flower cuts arrays into pieces of 5 MiB; what travels beside them must fit too."""
    max_reply_bytes: int = Field(default=4 * 2**30, ge=2**16)
    """Most bytes that a node may send in reply to one message: some times the model's."""
    request_seconds: float = Field(default=120.0, gt=0)
    """How long one request may take, from its headers to the last byte of its answer."""
    header_seconds: float = Field(default=10.0, gt=0)
    """How long a new connection may be silent before its first request."""
    max_connections: int = Field(default=1024, ge=1)
    """Connections at once; more are told to come again later."""
