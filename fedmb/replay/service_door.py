"""Who comes in to a replay service: each hello is compared with the tables there are, and becomes a session."""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmb.errors import AccessDenied, SettingsError, ShapeError, Unreachable
from fedmb.replay.service_streams import Session
from fedmb.replay.shared_arena import boot
from fedmb.replay.wire_format import WIRE_VERSION, Kind, json_frame, schema_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedmb.replay.served_table import ServedTable
    from fedmb.replay.shared_arena import Arena
    from fedmb.replay.wire_format import Hello


@dataclass(frozen=True, slots=True)
class DoorStatistics:
    """A service's clients at one moment."""

    streams: int
    """Open now."""
    opened: int
    """Ever opened."""


class Door:
    """Lets sessions in until it is closed.

    Args:
        tables: by name.
        max_message_bytes: of a request, and of a batch.
    """

    def __init__(self, tables: Mapping[str, ServedTable], max_message_bytes: int) -> None:
        self._tables = tables
        self.max_message_bytes = max_message_bytes
        self.ticket = secrets.token_hex(32)
        """Given to those who were let in; opens the socket of this machine."""
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._streams = self._opened = 0

    @property
    def is_closed(self) -> bool:
        """True once the service ends."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let sessions end."""
        self._closed.set()

    @contextmanager
    def session(self, hello: Hello, is_heard: Callable[[], bool], arena: Arena | None = None) -> Iterator[Session]:
        """A session for whoever said this hello.

        Raises:
            SettingsError: there is no such table.
            ShapeError: the client means other columns.
            Unreachable: the service ends.
        """
        table = self._tables.get(hello.table)
        if self.is_closed:
            raise Unreachable("a replay service must run to answer, this one ends; connect again in a moment")
        if table is None:
            raise SettingsError(
                f"a table must be one of {', '.join(sorted(self._tables))}, got {hello.table!r}; name one of them",
                key="table",
            )
        if hello.schema is not None and dict(hello.schema) != dict(table.schema):
            raise ShapeError(
                f"table {hello.table!r} has columns {schema_json(table.schema)}, got {schema_json(hello.schema)}; use "
                "the service's columns"
            )
        with self._lock:
            self._streams += 1
            self._opened += 1
        try:
            yield Session(table, hello.writer, self._closed.is_set, is_heard, self.max_message_bytes, arena)
        finally:
            with self._lock:
                self._streams -= 1

    def check_ticket(self, ticket: str) -> None:
        """Refuse a client that was not let in elsewhere.

        Raises:
            AccessDenied: the ticket is not ours.
        """
        if not secrets.compare_digest(ticket.encode(), self.ticket.encode()):
            raise AccessDenied("shared memory is for clients that were let in, got another ticket; connect anew")

    def welcome(self, session: Session, socket_name: str = "") -> bytes:
        """What a session is told first."""
        share = {"socket": socket_name, "ticket": self.ticket, "boot": boot()} if socket_name else None
        content: dict[str, Any] = {
            "version": WIRE_VERSION,
            "columns": schema_json(session.table.schema),
            "drawn": schema_json(session.table.drawn_schema),
            "capacity": session.table.capacity,
            "max_message_bytes": self.max_message_bytes,
            "share": share,
        }
        return json_frame(Kind.WELCOME, content)

    def statistics(self) -> DoorStatistics:
        """A frozen snapshot."""
        with self._lock:
            return DoorStatistics(self._streams, self._opened)
