"""A first in, first out table as a reader sees it, in the fewest lines, and slow walks along its episodes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.replay.sampler import Draw

SCHEMA = {
    "number": Column("int64"),
    "next": Column("int64", (2,)),
    "reward": Column("float32"),
    "terminated": Column("bool"),
    "truncated": Column("bool"),
    "filler": Column("bool"),
}


class FifoRows:
    """Rows of `num_streams` environments in turn; `ends` says of each row 0: goes on, 1: terminated, 2: truncated."""

    is_fifo = True

    def __init__(self, capacity, num_streams=1, schema=SCHEMA):
        self.capacity, self.num_streams, self.schema = capacity, num_streams, schema
        self.oldest = self.appended = 0
        self.columns = {name: np.zeros((capacity, *c.shape), c.dtype) for name, c in schema.items()}
        self.ends = []

    @property
    def num_rows(self):
        return self.appended - self.oldest

    @property
    def numbers(self):
        return np.arange(self.oldest, self.appended)

    @property
    def slots(self):
        return self.numbers % self.capacity

    def append(self, ends, **others):
        for end in ends:
            row = {
                "number": self.appended,
                "next": [-self.appended, self.appended],
                "reward": reward(self.appended),
                "terminated": end == 1,
                "truncated": end == 2,
                "filler": False,
                **{name: column[self.appended] for name, column in others.items()},
            }
            for name, column in self.columns.items():
                column[self.appended % self.capacity] = row[name]
            self.ends.append(end)
            self.appended += 1
            self.oldest = max(self.oldest, self.appended - self.capacity)

    def column(self, name):
        return self.columns[name]

    def read(self, slots):
        return {name: column[slots] for name, column in self.columns.items()}

    def walk(self, number, most, direction=1):
        """Numbers of stored rows from `number` on in its episode, at most `most`."""
        rows = [number]
        while len(rows) < most:
            following = rows[-1] + direction * self.num_streams
            last = rows[-1] if direction > 0 else following
            if not self.oldest <= following < self.appended or self.ends[last]:
                break
            rows.append(following)
        return rows

    def episode(self, number):
        """Numbers of all stored rows of its episode."""
        return [*self.walk(number, 10**6, -1)[:0:-1], *self.walk(number, 10**6)]


def reward(number):
    return np.float32((number * 37 % 11) - 4)


class Anyone:
    """A sampler: every stored row is equally likely."""

    def __init__(self, view):
        self.view = view

    def draw(self, size, random):
        return Draw(random.choice(self.view.slots, size), None)


class Favourites:
    """A sampler: row number r is drawn in proportion to `chances(r)`."""

    def __init__(self, view, chances):
        self.view, self.chances = view, chances

    def draw(self, size, random):
        weights = self.chances(self.view.numbers)
        probabilities = weights / weights.sum()
        picked = random.choice(len(weights), size, p=probabilities)
        return Draw(self.view.slots[picked], probabilities[picked])


@st.composite
def histories(draw):
    """A table that has been appended to, and after which of its rows a reader has looked at it before."""
    num_streams = draw(st.integers(1, 4))
    view = FifoRows(draw(st.integers(2 * num_streams, 30)), num_streams)
    frequent = draw(st.sampled_from([[0], [0, 0, 0, 0, 1], [0, 1, 2], [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]]))
    ends = draw(st.lists(st.sampled_from(frequent), min_size=1, max_size=90))
    looks = draw(st.sets(st.integers(0, len(ends))))
    return view, ends, looks


def lived(reader, history):
    """The table of a history, with a reader that has looked at it in between."""
    view, ends, looks = history
    reader.check(view)
    for count, end in enumerate(ends, 1):
        view.append([end])
        if count in looks:
            reader.valid(view, view.slots)
    return view


def chi_square(drawn, expected):
    """How many deviations the frequencies of `drawn` lie from `expected` probabilities, by number."""
    numbers = np.array(sorted(expected))
    chances = np.array([expected[number] for number in numbers], float)
    chances *= len(drawn) / chances.sum()
    counts = np.array([np.count_nonzero(drawn == number) for number in numbers])
    assert counts.sum() == len(drawn), "a row was drawn that must not be"
    degrees = len(numbers) - 1
    return (((counts - chances) ** 2 / chances).sum() - degrees) / np.sqrt(2 * degrees)
