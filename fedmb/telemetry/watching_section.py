"""Where a process may be watched."""

from __future__ import annotations

from pydantic import Field

from fedmb.section import Section


class Watching(Section):
    """Where a server or a client may be watched."""

    host: str = "127.0.0.1"
    """Address of /metrics, /healthz and /readyz. They show names, counts and scores, no rows, and are not encrypted."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of it; 0 is any that is free, which the log names."""
    stuck_seconds: float = Field(default=30.0, gt=0)
    """How long the processes may be without a connection, or start anew, before /healthz says so."""
