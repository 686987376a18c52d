"""A stream whose every row says where it lies, and a ring that is filled with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_ring import StreamRing

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = {"x": Column("uint8", (3,)), "y": Column("int64")}
PARTITIONS = [StreamPartition("log", "rows", index) for index in range(3)]


def record_rows(partition: int, offset: int) -> int:
    """Rows of a record; 0 for one that is set aside."""
    return (partition * 7 + offset * 5) % 6


def number(partition: int, offset: int, row: int) -> int:
    """What column y says of a row."""
    return (partition << 40) + (offset << 8) + row


def stretch(partition: int, start: Position, stop: Position) -> list[int]:
    """Numbers of the rows of a partition from one position to another."""
    found = []
    for offset in range(start.offset, stop.offset + 1):
        first = start.row if offset == start.offset else 0
        last = stop.row if offset == stop.offset else record_rows(partition, offset)
        found += [number(partition, offset, row) for row in range(first, last)]
    return found


def places(partition: int, start: Position) -> Iterator[tuple[int, int, int, int]]:
    """Partition, offset, row and rows left of every row from a position on."""
    offset, first = start
    while True:
        count = record_rows(partition, offset)
        for row in range(first, count):
            yield partition, offset, row, count - 1 - row
        offset, first = offset + 1, 0


def columns_of(numbers: list[int]) -> dict[str, np.ndarray]:
    """Columns of the rows that are numbered so."""
    y = np.array(numbers, np.int64)
    return {"x": (y[:, None] % (251, 241, 239)).astype(np.uint8), "y": y}


def assert_whole(columns: dict[str, np.ndarray]) -> None:
    """No row is torn: every column says the same."""
    assert np.array_equal(columns["x"], columns_of(columns["y"].tolist())["x"])


def make_ring(path, rows: int = 40, **settings) -> StreamRing:
    return StreamRing(path, SCHEMA, PARTITIONS, max_rows=rows, **settings)


def feed(ring: StreamRing, turns: list[tuple[int, int]]) -> list[int]:
    """Append so many rows of each partition in turn, in one append; answers their numbers."""
    ledger, wanted = dict(ring.ledger), []
    for partition, count in turns:
        here = places(partition, ledger.get(PARTITIONS[partition], Position(0)))
        for _ in range(count):
            wanted.append(next(here))
            _, offset, row, left = wanted[-1]
            ledger[PARTITIONS[partition]] = Position(offset, row + 1) if left else Position(offset + 1)
    numbers = [number(*place[:3]) for place in wanted]
    if wanted:
        ring.append(columns_of(numbers), *np.array(wanted).T)
    return numbers


def in_order(numbers: list[int], partition: int) -> list[int]:
    """Those of one partition."""
    return [one for one in numbers if one >> 40 == partition]


def learnt(ledger: Ledger, batch) -> Ledger:
    """The ledger behind a batch, whose rows are exactly those of its span."""
    assert_whole(batch.columns)
    for index, partition in enumerate(PARTITIONS):
        own = in_order(batch.columns["y"].tolist(), index)
        assert own == (stretch(index, *batch.span[partition]) if partition in batch.span else [])
    return ledger.advanced(batch.span)


def position(ledger) -> dict[str, object]:
    """Where a source stands with this ledger."""
    return {"ledger": Ledger(ledger).to_json()}


class Place:
    """A ring and its reader, each opened and closed as often as a test likes."""

    def __init__(self, folder):
        self.path = folder / "ring"
        self.ring = self.source = None

    def write(self, **settings):
        if self.ring:
            self.ring.close()
        self.ring = make_ring(self.path, **settings)
        return self.ring

    def read(self, **settings):
        if self.source:
            self.source.close()
        self.source = RingSource(self.path, SCHEMA, **{"linger_seconds": 0, "patience_seconds": 0, **settings})
        return self.source

    def close(self):
        for each in (self.ring, self.source):
            if each:
                each.close()
