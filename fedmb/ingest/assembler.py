"""Rows out of records: decode, set aside what cannot be, and know the position behind every row given.

records = the next ones in turn
run     = rows of the first, or of several of one row each; none where it was set aside, and the cursor passes it
give as many of its rows as are asked for; cursor += these
"""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedmb.errors import CorruptLog, DecodeError, RecordsGone
from fedmb.ingest.codecs import Codecs
from fedmb.ingest.turns import Turns
from fedmb.ledger import Position, StreamPartition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.ingest.codec import Codec
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import LogReader, Record

MAX_SHARE = 256  # records fetched of one partition at once; more would not make a poll noticeably cheaper
# Fetched at least, as far as AHEAD_BYTES of records like those met lie ahead: with a poll for each packed record of
# 34 kB, polling costs more (20 us) than decoding.
MIN_SHARE = 32
AHEAD_BYTES = 2 << 20


class Origins(NamedTuple):
    """Where each row of a run lies, four arrays of shape `(rows,)`."""

    partitions: NDArray[np.int32]
    """Index of the row's partition among the assembler's."""
    offsets: NDArray[np.int64]
    """Offset of its record."""
    rows: NDArray[np.int32]
    """Its number within the record."""
    left: NDArray[np.int32]
    """Rows of the record behind it; the position behind a record's last row is the next offset."""


class Run(NamedTuple):
    """Rows that were decoded together: some of one record, or all of several records of one row each."""

    columns: Columns
    """Views, `(rows, ...)` each."""
    records: Sequence[Record]
    """The one record, or one for each row."""
    row: int = 0
    """Number of the first row within the one record."""
    record_rows: int = 1
    """Rows of the one record."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def origins(self, partitions: Sequence[StreamPartition]) -> Origins:
        """Where each row lies, with its partition's index in `partitions`."""
        count = len(next(iter(self.columns.values())))
        index = {partition: number for number, partition in enumerate(partitions)}
        if len(self.records) == 1:
            (record,) = self.records
            rows = np.arange(self.row, self.row + count, dtype=np.int32)
            return Origins(
                np.full(count, index[record.partition], np.int32),
                np.full(count, record.offset, np.int64),
                rows,
                self.record_rows - 1 - rows,
            )
        nothing = np.zeros(count, np.int32)
        return Origins(
            np.fromiter((index[record.partition] for record in self.records), np.int32, count),
            np.fromiter((record.offset for record in self.records), np.int64, count),
            nothing,
            nothing,
        )


class _Opened(NamedTuple):
    """A decoded record whose rows from `row` on are still to be given."""

    record: Record
    columns: Columns
    row: int
    num_rows: int


class Assembler:
    """Gives rows of a reader's partitions in runs; a record may be given in several parts.

    Args:
        reader: of the partitions.
        codecs: all with one schema; the first decodes records whose headers name none. `Codecs` bring limits.
        dead_letters: where undecodable records go.

    Raises:
        SettingsError: there is no codec, or two have one name or different schemas.
    """

    def __init__(self, reader: LogReader, codecs: Sequence[Codec], dead_letters: DeadLetters) -> None:
        self.records = 0
        """Records met, decodable or not; one that is read again after a seek counts again."""
        self.bytes = 0
        """Bytes of their values."""
        self.rejected = 0
        """Records set aside."""
        self._codecs = Codecs(codecs)
        self._dead_letters = dead_letters
        self._turns = Turns(reader)
        self._rows_per_record = 1
        self._ahead: deque[Record] = deque()
        self._singly = 0
        self._many_rows: Mapping[str, bytes] | None = None
        self._opened: _Opened | None = None
        self._cursor = dict.fromkeys(self._turns.partitions, Position(0))

    @property
    def partitions(self) -> tuple[StreamPartition, ...]:
        """The reader's partitions."""
        return self._turns.partitions

    @property
    def schema(self) -> Schema:
        """Columns of the rows."""
        return self._codecs.schema

    @property
    def turn(self) -> int:
        """Index of the partition that gives the next row: a record given in part keeps its turn."""
        if self._opened:
            return self.partitions.index(self._opened.record.partition)
        return self.partitions.index(self._ahead[0].partition) if self._ahead else self._turns.turn

    @property
    def buffered_rows(self) -> int:
        """Rows decoded and not yet given."""
        return self._opened.num_rows - self._opened.row if self._opened else 0

    @property
    def buffered_records(self) -> int:
        """Records fetched and not yet decoded."""
        return len(self._ahead) + len(self._turns)

    def cursor(self) -> dict[StreamPartition, Position]:
        """The position behind the last row given of each partition, and behind what was set aside since."""
        return dict(self._cursor)

    def seek(self, positions: Mapping[StreamPartition, Position], turn: int) -> None:
        """Drop what is buffered, and go on at these positions with this turn."""
        self._opened = None
        self._ahead.clear()
        self._singly = 0
        self._cursor = dict(positions)
        self._turns.seek({partition: position.offset for partition, position in positions.items()}, turn)

    def wait(self, timeout_seconds: float, rows: int) -> bool:
        """Wait until a record comes, for at most so long; True when some are there to make `rows` rows of.

        Raises:
            CorruptLog, RecordsGone, AccessDenied: what the reader met.
        """
        if not self._ahead:
            self._turns.poll(timeout_seconds, self._share(rows))
        return self.buffered_records > 0

    def run(self, limit: int) -> Run | None:
        """The next rows, at most `limit`, as views; None when no record is there at this moment.

        Raises:
            CorruptLog, RecordsGone, AccessDenied: what the reader met, or the position belongs to another log.
        """
        while self._opened is None:
            if not self._ahead:
                self._ahead.extend(self._turns.take(self._records_for(limit), self._share(limit)))
                if not self._ahead:
                    return None
            if run := self._of_single_rows(limit):
                return run
            if self._singly:
                self._singly -= 1
            # Taken from the queue only once it is dealt with: a sink that fails leaves it in front of the cursor.
            self._opened = self._decoded(self._ahead[0])
            self._ahead.popleft()
        record, columns, row, num_rows = self._opened
        stop = row + limit
        if stop < num_rows:
            self._opened = self._opened._replace(row=stop)
            self._cursor[record.partition] = Position(record.offset, stop)
        else:
            self._opened = None
            self._cursor[record.partition] = Position(record.offset + 1)
        if row or stop < num_rows:
            columns = {name: column[row:stop] for name, column in columns.items()}
        return Run(columns, (record,), row, num_rows)

    def _of_single_rows(self, limit: int) -> Run | None:
        """Rows of the records ahead that have one row each by their codec; None where the next is another, or bad."""
        first = self._ahead[0].headers
        # Records of one producer share their headers.
        if self._singly or len(self._ahead) == 1 or limit == 1 or first is self._many_rows:
            return None
        try:
            codec = self._codecs.row_decoder(first)
        except DecodeError:
            return None
        if codec is None:
            self._many_rows = first
            return None
        alike = (record for record, _ in zip(self._ahead, range(limit), strict=False))
        records = list(takewhile(lambda record: record.headers is first or record.headers == first, alike))
        stops = {record.partition: record.offset + 1 for record in records}
        try:
            columns = codec.decode_many([record.value for record in records])
        except DecodeError:
            self._singly = len(records)
            return None
        if any(self._cursor[partition].row for partition in stops):
            self._singly = len(records)  # one by one, so that the position inside a record is judged
            return None
        for _ in records:
            self._ahead.popleft()
        self._count(records)
        self._rows_per_record = 1
        self._cursor.update({partition: Position(stop) for partition, stop in stops.items()})
        return Run(columns, records)

    def _decoded(self, record: Record) -> _Opened | None:
        """The record's rows from the cursor on; None when it cannot be read, and the cursor passes it."""
        partition, offset = record.partition, record.offset
        here = self._cursor[partition]
        try:
            columns = self._codecs.decoder(record.headers).decode(record.value)
        except DecodeError as error:
            self._dead_letters.set_aside(record, error)
            self._count((record,))
            self.rejected += 1
            self._cursor[partition] = Position(offset + 1)
            return None
        self.records += 1
        self.bytes += len(record.value)
        num_rows = self._rows_per_record = len(columns[next(iter(columns))])
        row = _row(here, record, num_rows) if here.row else 0
        return _Opened(record, columns, row, num_rows)

    def _count(self, records: Sequence[Record]) -> None:
        self.records += len(records)
        for record in records:
            self.bytes += len(record.value)

    def _records_for(self, rows: int) -> int:
        """Records that `rows` rows probably need."""
        return max(1, math.ceil(rows / self._rows_per_record))

    def _share(self, rows: int) -> int:
        """Records of each partition to fetch: what `rows` rows probably need, and some more where they are small."""
        needed = math.ceil(self._records_for(rows) / len(self.partitions))
        spare = AHEAD_BYTES * self.records // (max(1, self.bytes) * len(self.partitions))
        return min(MAX_SHARE, max(needed, min(MIN_SHARE, spare)))


def _row(here: Position, record: Record, num_rows: int) -> int:
    """Number of the first row of `record` behind the cursor.

    Raises:
        CorruptLog: the position lies behind the record's last row.
        RecordsGone: it lies inside a record that is not there any more.
    """
    partition, offset = record.partition, record.offset
    if here.row and offset > here.offset:
        raise RecordsGone(
            f"{partition} must still hold offset {here.offset}, whose rows from {here.row} on were not learnt, got "
            f"{offset} as the next; it was compacted or deleted: keep records until they are learnt",
            topic=partition.topic,
            partition=partition.partition,
            offset=here.offset,
        )
    row = here.row if offset == here.offset else 0
    if row >= num_rows:
        raise CorruptLog(
            f"a position inside a record must be before its end, got row {row} of {num_rows} at {partition} offset "
            f"{offset}; the log is not the one that the position came from",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
        )
    return row
