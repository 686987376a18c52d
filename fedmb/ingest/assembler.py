"""Rows out of records: decode, set aside what cannot be, and know the position behind every row given.

record = the next one in turn
rows   = its codec's, or none: set aside, and the cursor passes it
give as many of its rows as are asked for; cursor += these
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fedmb.errors import CorruptLog, DecodeError, SettingsError
from fedmb.ingest.codec import Codec, decoder_for
from fedmb.ingest.turns import Turns
from fedmb.ledger import Position, StreamPartition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import LogReader, Record

MAX_SHARE = 256  # records fetched of one partition at once; more would not make a poll noticeably cheaper


class _Opened(NamedTuple):
    """A decoded record whose rows from `row` on are still to be given."""

    partition: StreamPartition
    offset: int
    columns: Columns
    row: int
    num_rows: int


class Assembler:
    """Gives rows of a reader's partitions one record's part at a time; a record may be given in several parts.

    Args:
        reader: of the partitions.
        codecs: all with one schema; the first decodes records whose headers name none.
        dead_letters: where undecodable records go.

    Raises:
        SettingsError: there is no codec, or two have one name or different schemas.
    """

    def __init__(self, reader: LogReader, codecs: Sequence[Codec], dead_letters: DeadLetters) -> None:
        if not codecs or len({codec.name for codec in codecs}) < len(codecs):
            names = [codec.name for codec in codecs]
            raise SettingsError(f"a source needs one or more codecs of different names, got {names}", key="codecs")
        if any(codec.schema != codecs[0].schema for codec in codecs):
            raise SettingsError(
                f"codecs of one source must have one schema, got {[dict(codec.schema) for codec in codecs]}; make a "
                "source for each schema",
                key="codecs",
            )
        self.records = 0
        """Records met, decodable or not; one that is read again after a seek counts again."""
        self.bytes = 0
        """Bytes of their values."""
        self.rejected = 0
        """Records set aside."""
        self._codecs = {codec.name: codec for codec in codecs}
        self._default = codecs[0]
        self._dead_letters = dead_letters
        self._turns = Turns(reader)
        self._rows_per_record = 1
        self._opened: _Opened | None = None
        self._cursor = dict.fromkeys(self._turns.partitions, Position(0))

    @property
    def partitions(self) -> tuple[StreamPartition, ...]:
        """The reader's partitions."""
        return self._turns.partitions

    @property
    def schema(self) -> Schema:
        """Columns of the rows."""
        return self._default.schema

    @property
    def turn(self) -> int:
        """Index of the partition that gives the next row: a record given in part keeps its turn."""
        return self.partitions.index(self._opened.partition) if self._opened else self._turns.turn

    @property
    def buffered_rows(self) -> int:
        """Rows decoded and not yet given."""
        return self._opened.num_rows - self._opened.row if self._opened else 0

    @property
    def buffered_records(self) -> int:
        """Records fetched and not yet decoded."""
        return len(self._turns)

    def cursor(self) -> dict[StreamPartition, Position]:
        """The position behind the last row given of each partition, and behind what was set aside since."""
        return dict(self._cursor)

    def seek(self, positions: Mapping[StreamPartition, Position], turn: int) -> None:
        """Drop what is buffered, and go on at these positions with this turn."""
        self._opened = None
        self._cursor = dict(positions)
        self._turns.seek({partition: position.offset for partition, position in positions.items()}, turn)

    def wait(self, timeout_seconds: float, rows: int) -> bool:
        """Wait until a record comes, for at most so long; True when some are there to make `rows` rows of.

        Raises:
            CorruptLog: the next record is damaged.
        """
        self._turns.poll(timeout_seconds, self._share(rows))
        return len(self._turns) > 0

    def rows(self, limit: int) -> Columns | None:
        """The next rows of one record, at most `limit`, as views; None when no record is there at this moment.

        Raises:
            CorruptLog: the next record is damaged, or the position belongs to another log.
        """
        while self._opened is None:
            record = self._turns.next(self._share(limit))
            if record is None:
                return None
            self._opened = self._decoded(record)
        partition, offset, columns, row, num_rows = self._opened
        stop = min(num_rows, row + limit)
        self._opened = self._opened._replace(row=stop) if stop < num_rows else None
        self._cursor[partition] = Position(offset, stop) if stop < num_rows else Position(offset + 1)
        return {name: column[row:stop] for name, column in columns.items()}

    def _decoded(self, record: Record) -> _Opened | None:
        """The record's rows from the cursor on; None when it cannot be read, and the cursor passes it."""
        partition, offset = record.partition, record.offset
        here = self._cursor[partition]
        row = here.row if offset == here.offset else 0
        self.records += 1
        self.bytes += len(record.value)
        try:
            columns = decoder_for(record.headers, self._codecs, self._default).decode(record.value)
        except DecodeError as error:
            self._dead_letters.set_aside(record, error)
            self.rejected += 1
            self._cursor[partition] = Position(offset + 1)
            return None
        num_rows = self._rows_per_record = len(columns[next(iter(columns))])
        if row >= num_rows:
            raise CorruptLog(
                f"a position inside a record must be before its end, got row {row} of {num_rows} at {partition} offset "
                f"{offset}; the log is not the one that the position came from",
                topic=partition.topic,
                partition=partition.partition,
                offset=offset,
            )
        return _Opened(partition, offset, columns, row, num_rows)

    def _share(self, rows: int) -> int:
        """Records of each partition that `rows` rows probably need."""
        needed = rows / (self._rows_per_record * len(self.partitions))
        return min(MAX_SHARE, max(1, math.ceil(needed)))
