"""Records of one partition that were fetched and not yet given, and what is known about the rest."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.errors import FedmbError
    from fedmb.ingest.kafka_driver import Fetched
    from fedmb.ingest.log import Record


class Inbox:
    """A queue of fetched stretches; a stretch counts with all its bytes until its last record is given.

    Args:
        offset: of the first record to be given.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        """From which the next fetch goes on: behind the last record fetched and the markers after it."""
        self.end: int | None = None
        """Up to which records are known to be there; None while nobody has asked."""
        self.num_bytes = 0
        self.num_records = 0
        self.is_paused = False
        """The driver was told to give no more for now."""
        self.failure: FedmbError | None = None
        """Why nothing comes after what is queued."""
        self._stretches: deque[Fetched] = deque()
        self._given = 0

    def begins_at(self, offset: int) -> bool:
        """True when `offset` is the next one to be given or waited for."""
        begin = self._stretches[0].records[self._given].offset if self._stretches else self.offset
        return begin == offset and self.failure is None

    def put(self, stretch: Fetched) -> None:
        """Queue records that follow what is queued."""
        if stretch.records[0].offset < self.offset:  # of a fetch that was on its way when the partition was sought
            records = [record for record in stretch.records if record.offset >= self.offset]
            if not records:
                return
            stretch = stretch._replace(records=records)
        self._stretches.append(stretch)
        self.num_bytes += stretch.num_bytes
        self.num_records += len(stretch.records)
        self.offset = stretch.records[-1].offset + 1

    def take(self, count: int) -> list[Record]:
        """The next records, `count` at most."""
        taken: list[Record] = []
        while self._stretches and len(taken) < count:
            stretch = self._stretches[0]
            stop = self._given + count - len(taken)
            taken += stretch.records[self._given : stop]
            if stop < len(stretch.records):
                self._given = stop
                break
            self._stretches.popleft()
            self._given = 0
            self.num_bytes -= stretch.num_bytes
        self.num_records -= len(taken)
        return taken

    def lacks(self, share: int, max_bytes: int) -> bool:
        """True while fewer than `share` records are queued, more are known to be there, and bytes leave room."""
        return (
            self.num_records < share
            and not self.is_full(max_bytes)
            and self.failure is None
            and self.end is not None
            and self.offset < self.end
        )

    def is_full(self, max_bytes: int) -> bool:
        """True from `max_bytes` on, and then until half of them are given."""
        return self.num_bytes > max_bytes // 2 if self.is_paused else self.num_bytes >= max_bytes

    def is_exhausted(self) -> bool:
        """True when nothing is queued and nothing more is known to be there."""
        return not self.num_records and self.failure is None and (self.end is None or self.offset >= self.end)
