"""Fills a log with records whose content is a function of their offset, so that a killed feeder goes on unnoticed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedmb.errors import SettingsError
from fedmb.ingest.codec import Codec, codec_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.batch.minibatch import Columns
    from fedmb.ingest.log import Log

BURST_SECONDS = 1.0  # rows that a delayed feeder makes up for at once: what a second brings
LEAD_WAIT = 0.01  # seconds between two looks at a consumer that is behind; it works off a record in about that time


class EndOfRecords(Exception):  # noqa: N818  # like StopIteration: no error
    """There is no record of the number that was asked for, and no later one."""


class StopEvent(Protocol):
    """What `threading.Event` and `multiprocessing.Event` share."""

    def is_set(self) -> bool:
        """True once somebody wants the feeder to stop."""
        ...

    def wait(self, timeout: float) -> bool:
        """Sleep until then or `timeout` seconds; answers `is_set()`."""
        ...


class TokenBucket:
    """Paces rows: `rows_per_second` in the long run, at most a burst at once after a delay.

    Args:
        rows_per_second: refill; `math.inf` never waits.
        clock: monotonic seconds.
    """

    def __init__(self, rows_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rows_per_second
        self._clock = clock
        self._due = clock()

    def spend(self, rows: int) -> None:
        """Count rows that were sent."""
        self._due += rows / self._rate

    def wait_seconds(self) -> float:
        """How long to wait before the next rows are due; 0 when they are."""
        now = self._clock()
        self._due = max(self._due, now - BURST_SECONDS)
        return max(0.0, self._due - now)


@dataclass(frozen=True, slots=True)
class FeederStatistics:
    """A snapshot of a feeder."""

    records: int = 0
    """Appended by this run."""
    rows: int = 0
    """In them."""
    end: int = 0
    """Records that the partition holds."""
    appended_at: float | None = None
    """When the last one was appended, in monotonic seconds; None before the first."""


class Feeder:
    """Appends `records(offset)`, encoded, at a steady rate, from the partition's end on.

    Since content depends on the offset alone, a feeder that was killed and started again leaves the same log as one
    that never stopped, but for timestamps. It pickles when its parts do, so `run` may be a process's target.

    Args:
        log: where to.
        topic: in it.
        partition: of it; the feeder is its one writer while it runs.
        records: columns of the record with this offset; a pure function. One call is one record; EndOfRecords ends
            the run.
        codec: makes the value.
        rows_per_second: pace; `math.inf` is as fast as it goes.
        max_records: stop when the partition holds so many.
        lead_records: stay at most so many records ahead of `consumed`.
        consumed: how many records the reader has used so far; needed with a finite lead.

    Raises:
        SettingsError: a rate or number is not positive, or there is a lead without `consumed`.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        partition: int = 0,
        *,
        records: Callable[[int], Columns],
        codec: Codec,
        rows_per_second: float = math.inf,
        max_records: float = math.inf,
        lead_records: float = math.inf,
        consumed: Callable[[], int] | None = None,
    ) -> None:
        for key, number in (
            ("rows_per_second", rows_per_second),
            ("max_records", max_records),
            ("lead_records", lead_records),
        ):
            if not number > 0:
                raise SettingsError(f"{key} must be above 0, got {number}; math.inf is no limit", key=key)
        if lead_records < math.inf and consumed is None:
            raise SettingsError(
                f"a lead of {lead_records} records must be measured against a reader, got consumed=None; pass consumed",
                key="consumed",
            )
        self._log = log
        self._topic = topic
        self._partition = partition
        self._records = records
        self._codec = codec
        self._rows_per_second = rows_per_second
        self._max_records = max_records
        self._lead_records = lead_records
        self._consumed = consumed
        self._statistics = FeederStatistics()

    def run(self, stop: StopEvent) -> int:
        """Append until `stop` is set, the partition is full or records end; answers how many records this run appended.

        Raises:
            AlreadyOwned: another writer has the partition.
            Unreachable: a log over a network took nothing for too long.
        """
        writer = self._log.writer(self._topic, self._partition)
        try:
            offset = first = writer.end_offset
            self._statistics = FeederStatistics(end=first)
            bucket = TokenBucket(self._rows_per_second)
            headers = codec_headers(self._codec)
            while offset < self._max_records and not stop.is_set():
                wait = bucket.wait_seconds()
                if self._consumed is not None and offset - self._consumed() >= self._lead_records:
                    wait = max(wait, LEAD_WAIT)
                if wait > 0:
                    stop.wait(wait)
                    continue
                try:
                    columns = self._records(offset)
                except EndOfRecords:
                    break
                offset = writer.append(self._codec.encode(columns), headers) + 1
                rows = len(next(iter(columns.values())))
                bucket.spend(rows)
                counted = self._statistics.rows + rows
                self._statistics = FeederStatistics(offset - first, counted, offset, time.monotonic())
            return offset - first
        finally:
            writer.close()

    def statistics(self) -> FeederStatistics:
        """A snapshot of the counts; any thread may ask."""
        return self._statistics
