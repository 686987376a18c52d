"""Mini-batches from a log, each with the span of exactly the rows it holds.

    taken = the ledger's position
    until the batch is full, has lingered, or the log was silent too long:
        rows from the assembler, whose cursor moves behind them
    batch.span = taken .. cursor;  taken = cursor

A record may be split over several batches, and a batch over several records and partitions; rows of one partition
keep their order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Columns, MiniBatch, Schema
from fedmb.errors import CorruptLog, NotEnoughData, RecordsGone, SettingsError
from fedmb.ingest.assembler import Assembler
from fedmb.ingest.dead_letter import CountedDeadLetters, DeadLetters
from fedmb.ledger import Ledger, Position, Span, StreamPartition

if TYPE_CHECKING:
    from fedmb.batch.source import SourcePosition
    from fedmb.ingest.codec import Codec
    from fedmb.ingest.log import LogReader

POLL_SECONDS = 1.0  # longest single wait inside a reader, so that an endless patience stays interruptible


@dataclass(frozen=True, slots=True)
class LogSourceStatistics:
    """What a source has done since it was made; rows read again after a seek back count again."""

    rows: int
    """Rows given in mini-batches."""
    records: int
    """Records met, decodable or not."""
    bytes: int
    """Bytes of their values."""
    rejected: int
    """Records set aside."""
    buffered_rows: int
    """Rows decoded and not yet given."""
    buffered_records: int
    """Records fetched and not yet decoded."""


class LogSource:
    """A `BatchSource` over partitions of one topic; used by one thread.

    With one partition, or several whose records all lie in the log already, and with endless linger and patience,
    batches depend on the position and the sizes alone. A finite linger or patience closes batches by the clock.

    Args:
        reader: of the partitions; closed with the source.
        codecs: all with one schema; the first decodes records whose headers name none.
        dead_letters: where undecodable records go; counted in memory by default. Closed with the source.
        linger_seconds: a batch that has rows waits at most so long for more; what is there already is always taken.
        patience_seconds: how long a log may give no row before `take` gives up waiting.
        clock: monotonic seconds.

    Raises:
        SettingsError: there is no codec, two have one name or different schemas, or a time is negative.
    """

    def __init__(
        self,
        reader: LogReader,
        codecs: Sequence[Codec],
        *,
        dead_letters: DeadLetters | None = None,
        linger_seconds: float = math.inf,
        patience_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for key, seconds in (("linger_seconds", linger_seconds), ("patience_seconds", patience_seconds)):
            if not seconds >= 0:
                raise SettingsError(f"{key} must be 0 or more, got {seconds}; math.inf waits without end", key=key)
        self._reader = reader
        self._dead_letters = dead_letters if dead_letters is not None else CountedDeadLetters()
        self._assembler = Assembler(reader, codecs, self._dead_letters)
        self._names = tuple(self._assembler.schema)
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._waits_until = self._longest_silence = math.inf
        self._rows = self._settled = 0
        self._is_sought = False
        self._taken = self._assembler.cursor()
        self._turn = self._assembler.turn

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch."""
        return self._assembler.schema

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: a stream has no end."""
        return math.inf

    def take(self, size: int) -> MiniBatch:
        """The next rows, at least one and at most `size`, in fresh arrays; blocks while there are none.

        Fewer than `size` come when the linger or the patience ran out, or when damage follows: the rows in front
        of it are given first. Whatever is raised, no row is lost: the next `take` starts where this one did.

        Raises:
            NotEnoughData: the log gave no row for as long as the patience lasts.
            CorruptLog: the next record is damaged.
            RecordsGone: the next record is no longer there.
            AccessDenied: a broker refuses the reader.
            TooManyRejected: the dead letters' circuit breaker opened.
            ValueError: `size` is not positive.
        """
        if size < 1:
            raise ValueError(f"a mini-batch must have 1 row or more, got size={size}; raise the batch size")
        try:
            parts, num_rows = self._gathered(size)
            if len(parts) == 1:
                (part,) = parts
                # A copy even so: decoded columns may be read-only and start at any byte.
                columns = {name: part[name].copy() for name in self._names}
            elif parts:
                columns = {name: np.concatenate([part[name] for part in parts]) for name in self._names}
            if parts:
                self._settle()
        except BaseException:
            self._assembler.seek(self._taken, self._turn)
            raise
        if not parts:
            raise NotEnoughData(
                f"{', '.join(map(str, self._assembler.partitions))} must give a row within {self._patience_seconds} s, "
                "got none; start the producer, or raise patience_seconds"
            )
        before, self._taken, self._turn = self._taken, self._assembler.cursor(), self._assembler.turn
        span = {
            partition: Span(before[partition], stop)
            for partition, stop in self._taken.items()
            if before[partition] != stop
        }
        self._rows += num_rows
        return MiniBatch(columns, span=span, origins={"stream": num_rows})

    def _settle(self) -> None:
        """Make the letters of records that the next span passes durable; once a batch, since each may cost a trip."""
        if self._assembler.rejected != self._settled:
            self._dead_letters.flush()
            self._settled = self._assembler.rejected

    def position(self) -> SourcePosition:
        """The ledger of the rows taken, and whose turn it is when there are several partitions."""
        position: SourcePosition = {"ledger": Ledger(self._taken).to_json()}
        if len(self._taken) > 1:
            position["turn"] = self._turn
        return position

    def seek(self, position: SourcePosition) -> None:
        """Go to a position or a ledger in its form; partitions that it does not name start at their beginning.

        A ledger may name partitions of other sources, as a server's does; they are ignored.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        ledger, turn = position.get("ledger", {}), position.get("turn", 0)
        partitions = self._assembler.partitions
        if not (
            position.keys() <= {"ledger", "turn"}
            and isinstance(ledger, Mapping)
            and type(turn) is int
            and 0 <= turn < len(partitions)
        ):
            raise ValueError(
                f'a log source\'s position is {{"ledger": {{...}}}}, got {str(position)[:200]}; seek the source that '
                "gave it"
            )
        found = Ledger.from_json(ledger)
        positions: dict[StreamPartition, Position] = {partition: found.position(partition) for partition in partitions}
        if self._is_sought and (positions, turn) == (self._taken, self._turn):
            return  # as between most rounds; what was fetched beyond the position is still good
        self._assembler.seek(positions, turn)
        self._taken, self._turn, self._is_sought = positions, turn, True

    def limit_waiting(self, seconds: float, *, silence_seconds: float = math.inf) -> None:
        """Be less patient from now on than this source was made to be; inf lifts a limit.

        Args:
            seconds: no `take` waits for rows any longer than that from now on.
            silence_seconds: most time without a row that a `take` waits for.
        """
        self._waits_until, self._longest_silence = self._clock() + seconds, silence_seconds

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Tell the log's lag monitors what a stored model has learnt; nothing is read from here on that account.

        Args:
            ledger: of the model; partitions of other sources are ignored.
            note: which model, such as its version.
        """
        offsets = {one: ledger[one].offset for one in self._assembler.partitions if one in ledger}
        if offsets:
            self._reader.acknowledge(offsets, note)

    def lag(self) -> dict[StreamPartition, int]:
        """Records between the rows taken and the end, by partition; a record taken in part counts."""
        ends = self._reader.end_offsets()
        return {partition: max(0, ends[partition] - taken.offset) for partition, taken in self._taken.items()}

    def statistics(self) -> LogSourceStatistics:
        """A snapshot of the counts."""
        rows = self._assembler
        return LogSourceStatistics(
            self._rows, rows.records, rows.bytes, rows.rejected, rows.buffered_rows, rows.buffered_records
        )

    def close(self) -> None:
        """Close the reader and the dead letters."""
        self._reader.close()
        self._dead_letters.close()

    def _gathered(self, size: int) -> tuple[list[Columns], int]:
        """Columns of up to `size` rows in all, and how many; none when the patience ran out first."""
        parts: list[Columns] = []
        missing = size
        silent_since, closes_at = self._clock(), math.inf
        while missing:
            try:
                run = self._assembler.run(missing)
                if run is None:
                    patience = min(self._patience_seconds, self._longest_silence)
                    deadline = min(silent_since + patience, closes_at, self._waits_until)
                    remaining = max(0.0, deadline - self._clock())
                    if not self._assembler.wait(min(remaining, POLL_SECONDS), missing) and not remaining:
                        break
                    continue
            except (CorruptLog, RecordsGone):
                if not parts:
                    raise
                break
            silent_since = self._clock()
            if not parts:
                closes_at = silent_since + self._linger_seconds
            parts.append(run.columns)
            missing -= len(run)
        return parts, size - missing
