"""What a pump has done and how it stands, for those who watch it from other threads."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedmb.errors import TooManyRejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmb.errors import DecodeError
    from fedmb.ingest.assembler import Assembler
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import LogReader, Record
    from fedmb.ledger import Ledger, StreamPartition

logger = logging.getLogger(__name__)

RATE_SECONDS = 10.0  # rows a second are counted over about so long
LOOK_SECONDS = 1.0  # between two looks at the log's end; a broker answers each with a request


@dataclass(frozen=True, slots=True)
class PumpStatistics:
    """What a pump has done since it was made; records read again after an outage count again."""

    rows: int
    """Rows kept by the sink."""
    records: int
    """Records met, decodable or not."""
    bytes: int
    """Bytes of their values."""
    rejected: Mapping[str, int]
    """Records set aside, by the name of the error's class."""
    stalls: int
    """Times that the sink had no room."""
    stalled_seconds: float
    """Time spent waiting for room."""
    outages: int
    """Times that the log did not answer."""
    reconnects: int
    """Connections given up for a failure; a client library mends others by itself."""
    rows_per_second: float
    """Rows kept of late, over about ten seconds."""
    lag: Mapping[StreamPartition, int]
    """Offsets between the ledger and the log's end, by partition; as of the last look, empty before the first."""


class _Connection(Protocol):
    """What a reader over a network says of itself."""

    @property
    def reconnects(self) -> int:
        """Connections given up for a failure."""
        ...

    @property
    def is_connected(self) -> bool:
        """False while no broker answers."""
        ...


@runtime_checkable
class _Networked(Protocol):
    """A reader whose connection may break; it polls nothing until it has another."""

    def statistics(self) -> _Connection:
        """A snapshot; does not wait."""
        ...


class CountedLetters:
    """Dead letters, counted by the class of their error on the way.

    Args:
        letters: where they go.
    """

    def __init__(self, letters: DeadLetters) -> None:
        self.rejected: Counter[str] = Counter()
        """Records set aside, by the name of the error's class."""
        self.pending = 0
        """Letters since the last flush."""
        self.is_broken = False
        """Letters since the last flush may not have been written: their records must come again."""
        self._letters = letters

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Keep the record."""
        try:
            self._letters.set_aside(record, error)
        except TooManyRejected:  # raised before anything was written
            raise
        except BaseException:
            self.is_broken = True
            raise
        self.pending += 1
        self.rejected[type(error).__name__] += 1

    def flush(self) -> None:
        """Make every letter durable."""
        if self.pending:
            try:
                self._letters.flush()
            except BaseException:
                self.is_broken = True
                raise
            self.pending = 0

    def begin_again(self) -> None:
        """Forget the letters since the last flush, whose records are read again."""
        self.pending, self.is_broken = 0, False

    def close(self) -> None:
        """Close the letters below."""
        self._letters.close()


class PumpTally:
    """Written by the pump's thread, read by any.

    Args:
        reader: asked for the log's end and for its reconnects.
        assembler: counts records and bytes.
        letters: counts what was set aside.
        clock: monotonic seconds.
    """

    def __init__(
        self, reader: LogReader, assembler: Assembler, letters: CountedLetters, clock: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._assembler = assembler
        self._letters = letters
        self._clock = clock
        self._rows = 0
        self._stalls = 0
        self._stalled_seconds = 0.0
        self._stalled_since: float | None = None
        self._outages = 0
        self._outage: tuple[float, Unreachable] | None = None
        self._beat_at = self._looked_at = clock()
        self._lag: Mapping[StreamPartition, int] = {}
        self._marks: deque[tuple[float, int]] = deque([(self._beat_at, 0)])

    def beat(self) -> None:
        """The thread is alive."""
        self._beat_at = self._clock()

    def kept(self, rows: int) -> None:
        """The sink took so many rows."""
        self._rows += rows

    def stall(self) -> None:
        """The sink has no room."""
        if self._stalled_since is None:
            self._stalled_since = self._clock()
            self._stalls += 1

    def go_on(self) -> None:
        """The sink has room."""
        if self._stalled_since is not None:
            self._stalled_seconds += self._clock() - self._stalled_since
            self._stalled_since = None

    def unreached(self, error: Unreachable) -> None:
        """The log did not answer; said once for each outage."""
        if self._outage is None:
            logger.warning("log unreachable error=%s", error)
            self._outage = (self._clock(), error)
            self._outages += 1

    def heard(self) -> None:
        """The reader came back from the log, unless it came back without a connection."""
        if isinstance(self._reader, _Networked) and not self._reader.statistics().is_connected:
            self.unreached(Unreachable("a broker must answer, got no connection; it is tried again"))
        elif self._outage is not None:
            logger.info("log reached again seconds=%.1f", self._clock() - self._outage[0])
            self._outage = None

    def look(self, ledger: Ledger) -> None:
        """Look at the log's end, now and then."""
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS or self._outage is not None:
            return
        self._looked_at = now
        self._marks.append((now, self._rows))
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_SECONDS:
            self._marks.popleft()
        try:
            ends = self._reader.end_offsets()
        except Unreachable as error:
            self.unreached(error)
            return
        self._lag = {
            partition: max(0, ends.get(partition, 0) - ledger.position(partition).offset)
            for partition in self._assembler.partitions
        }

    def statistics(self) -> PumpStatistics:
        """A snapshot."""
        now, since = self._clock(), self._stalled_since
        first_at, first_rows = self._marks[0]
        return PumpStatistics(
            rows=self._rows,
            records=self._assembler.records,
            bytes=self._assembler.bytes,
            rejected=dict(self._letters.rejected),
            stalls=self._stalls,
            stalled_seconds=self._stalled_seconds + (now - since if since is not None else 0.0),
            outages=self._outages,
            reconnects=self._reader.statistics().reconnects if isinstance(self._reader, _Networked) else 0,
            rows_per_second=(self._rows - first_rows) / (now - first_at) if now > first_at else 0.0,
            lag=self._lag,
        )

    def stuck(self, bound_seconds: float) -> str:
        """That the thread has not come back for longer than the bound; empty when it has."""
        silent = self._clock() - self._beat_at
        return f"the pump's thread has not come back for {silent:.1f} s" if silent > bound_seconds else ""

    def trouble(self, bound_seconds: float) -> str:
        """Why nothing has moved for longer than the bound, empty when all is well."""
        if stuck := self.stuck(bound_seconds):
            return stuck
        now, outage = self._clock(), self._outage
        if outage is not None and now - outage[0] > bound_seconds:
            return f"the log has not answered for {now - outage[0]:.1f} s: {outage[1]}"
        return ""
