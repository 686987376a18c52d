"""A replay table beside a slow model of it: a dictionary of rows by slot."""

from __future__ import annotations

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData
from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.reader import Rows
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

SCHEMA = {"x": Column("float32", (3,)), "number": Column("int64"), "label": Column("uint8"), "skip": Column("bool")}
SAMPLERS = {
    "uniform": Uniform,
    "prioritized": Prioritized,
    "recency": lambda: Recency(15.0),
    "passes": WithoutReplacement,
}
REMOVERS = {
    "fifo": Fifo,
    "lifo": Lifo,
    "reservoir": Reservoir,
    "lowest": LowestPriority,
    "classes": lambda: ClassBalanced("label"),
}


def rows_of(number):
    """Rows of which every value says which row it is of; every fifth is to be skipped."""
    x = (number[:, None] * [1, -1, 2]).astype(np.float32)
    return {"x": x, "number": number, "label": (number**2 % 7).astype(np.uint8), "skip": number % 5 == 4}


def rows(first, count):
    return rows_of(np.arange(first, first + count))


def values(number):
    """One row, in the order of the schema."""
    return [column[0] for column in rows(number, 1).values()]


def same_rows(columns):
    """Whether no row is torn or mixed up."""
    wanted = rows_of(columns["number"])
    return all(np.array_equal(columns[name], wanted[name]) for name in SCHEMA)


def make(sampler, remover, *, limited=False, most=None, skips=False, folder=None, capacity=10, seed=0):
    parts = {
        "sampler": SAMPLERS[sampler](),
        "remover": REMOVERS[remover](),
        "limiter": RateLimiter(1.0, 4, 1e9) if limited else None,
        "max_times_sampled": most,
        "reader": Rows(skip="skip") if skips else None,
        "seed": seed,
    }
    return ReplayTable.mapped(folder, SCHEMA, capacity, **parts) if folder else ReplayTable(SCHEMA, capacity, **parts)


class ModelledTable:
    """Does everything twice, and compares."""

    def __init__(self, table, *, most=None, skips=False):
        self.table, self.most, self.skips = table, most, skips
        self.rows = {}  # by slot: id, number, draws
        self.written = {}  # by slot: rows that ever lay there
        self.appended = self.sampled = self.stale = self.reprioritized = 0

    def append(self, count, priorities=None):
        ids = self.table.append(rows(self.appended, count), priorities=priorities).tolist()
        assert len(ids) == count
        for place, one in enumerate(ids):
            if one >= 0:
                self.keep(one, self.appended + place)
        self.appended += count
        self.check()

    def append_rows(self, count):
        """One by one, into a table that is first in, first out."""
        for _ in range(count):
            self.table.append_row(values(self.appended))
            self.keep(self.appended, self.appended)
            self.appended += 1
        self.check()

    def keep(self, one, number):
        slot, generation = one % self.table.capacity, one // self.table.capacity
        self.rows[slot] = [one, number, 0]
        assert generation >= self.written.get(slot, 0), "an id was given twice"
        self.written[slot] = generation + 1

    def sample(self, size):
        usable = [row for row in self.rows.values() if not (self.skips and row[1] % 5 == 4)]
        try:
            sample = self.table.sample(size, timeout=0)
        except NotEnoughData:
            return None
        assert len(sample) == size
        assert same_rows(sample.columns)
        for one, number in zip(sample.ids.tolist(), sample.columns["number"].tolist(), strict=True):
            row = self.rows[one % self.table.capacity]
            assert row[:2] == [one, number]
            assert row in usable
            row[2] += 1
        if self.most:
            assert max(row[2] for row in self.rows.values()) <= self.most
            self.rows = {slot: row for slot, row in self.rows.items() if row[2] < self.most}
        self.sampled += size
        self.check()
        return sample

    def reprioritize(self, ids, priorities):
        alive = {row[0] for row in self.rows.values()}
        found = set(ids) & alive
        self.stale += sum(one not in alive for one in ids)
        self.reprioritized += len(found)
        assert self.table.reprioritize(np.array(ids, np.int64), np.array(priorities)) == len(found)
        self.check()

    def check(self):
        found = self.table.statistics()
        assert len(self.table) == found.rows == len(self.rows)
        assert (found.appended, found.sampled) == (self.appended, self.sampled)
        assert (found.stale, found.reprioritized) == (self.stale, self.reprioritized)
        assert found.removed == self.appended - len(self.rows)
