"""A sink in memory that holds what it is given to its word, and readers that fail: doubles for tests of the pump."""

from __future__ import annotations

import threading

from fedmb.errors import Unreachable
from fedmb.ledger import Ledger, Position


class KeptRows:
    """Keeps rows of partitions by name, checks every origin against the ledger, and has as much room as it is told."""

    def __init__(self, partitions, room=10**6):
        self.partitions, self.free = partitions, room
        self.ids, self.appends, self.done = [], [], []
        self.ledger = self.flushed = Ledger()

    def room(self):
        return self.free

    def append(self, columns, partitions, offsets, rows, left):
        count = len(columns["id"])
        assert count <= self.free, "no more rows than there is room"
        assert {len(each) for each in (partitions, offsets, rows, left)} == {count}
        positions = dict(self.ledger)
        for index, offset, row, behind in zip(partitions, offsets, rows, left, strict=True):
            here = positions.get(self.partitions[index], Position(0))
            start = Position(int(offset), int(row))
            assert start == here or (row == 0 and here.row == 0 and start >= here), f"{start} after {here}"
            positions[self.partitions[index]] = Position(int(offset), int(row) + 1) if behind else Position(offset + 1)
        self.ids += columns["id"].tolist()
        self.appends.append(count)
        self.free -= count
        self.ledger = Ledger(positions)
        self.done.append("append")

    def pass_over(self, positions):
        assert all(position > self.ledger.position(partition) for partition, position in positions.items())
        self.ledger = Ledger({**self.ledger, **positions})
        self.done.append("pass over")

    def flush(self):
        self.flushed = self.ledger
        self.done.append("flush")


class Flaky:
    """A reader in front of another that breaks when it is told to, and remembers what was acknowledged."""

    def __init__(self, reader, *, unreachable=0, error=None, after=0):
        self.inner, self.partitions = reader, reader.partitions
        self.seek, self.begin_offsets, self.end_offsets = reader.seek, reader.begin_offsets, reader.end_offsets
        self.unreachable, self.error, self.after, self.polls = unreachable, error, after, 0
        self.acknowledged = []

    def poll(self, timeout_seconds, max_records=500):
        self.polls += 1
        if self.polls > self.after and self.unreachable:
            self.unreachable -= 1
            raise Unreachable("a broker must answer, got silence; start it")
        if self.polls > self.after and self.error:
            raise self.error
        return self.inner.poll(timeout_seconds, max_records)

    def acknowledge(self, offsets, note):
        self.acknowledged.append((dict(offsets), note))

    def close(self):
        self.inner.close()


class Until(threading.Event):
    """A stop event that is set once a condition holds, so that a pump ends by what it did and not by the clock."""

    def __init__(self, condition):
        super().__init__()
        self.condition = condition

    def is_set(self):
        return super().is_set() or self.condition()

    def wait(self, timeout=None):
        return self.is_set() or super().wait(min(timeout, 0.001))
