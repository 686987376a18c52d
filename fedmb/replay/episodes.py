"""Where episodes begin and end, for every row of a first in, first out table.

    row        0  1  2  3  4  5  6          one stream; rows 2 and 4 end their episodes
    since      0  1  2  0  1  0  1          steps since the episode's first row
    until      2  1  0  1  0  -  -          steps to its last row; unknown while it runs

Each row is looked at once: the rows appended since the last look when the table is sampled again, and once more when
its episode ends. A look costs about 20 ns a row, and the notes take 8 bytes a row; no sample walks along an episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.replay.reader import TableView

UNKNOWN = -1
CHUNK = 1 << 17  # rows looked at in one go; about 10 MB of notes in the making


class EpisodeIndex:
    """Steps from each row to the edges of its episode.

    Args:
        ends: columns of bool; an episode's last row is True in one of them or more.
        num_streams: environments whose rows come in turn.
        capacity: the table's.
    """

    def __init__(self, ends: Sequence[str], num_streams: int, capacity: int) -> None:
        self._ends = tuple(ends)
        self._num_streams = num_streams
        self._capacity = capacity
        self._streams = np.arange(num_streams)
        self._since = np.zeros(capacity, np.int32)
        self._until = np.full(capacity, UNKNOWN, np.int32)
        self.reset()

    def reset(self) -> None:
        """Look at all rows again: they may be others now."""
        self._seen = -1
        self._first = np.zeros(self._num_streams, np.int64)  # number of the first row of each running episode

    def follow(self, view: TableView) -> None:
        """Look at what was appended since the last time."""
        if self._seen == view.appended:
            return
        start = max(self._seen, view.oldest, view.appended - self._capacity)
        if start != self._seen or self._seen > view.appended:
            start = max(view.oldest, view.appended - self._capacity)
            self._first = start + (self._streams - start) % self._num_streams
        while start < view.appended:
            stop = min(view.appended, start + min(CHUNK, self._capacity))
            self._look(view, start, stop)
            start = stop
        self._seen = view.appended

    def before(self, view: TableView, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the same episode that are stored and came before each of these."""
        stored = (numbers - view.oldest) // self._num_streams
        return np.minimum(self._since[numbers % self._capacity], stored)

    def after(self, view: TableView, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the same episode that are stored and came after each of these."""
        until = self._until[numbers % self._capacity].astype(np.int64)
        stored = (view.appended - 1 - numbers) // self._num_streams
        return np.where(until == UNKNOWN, stored, until)

    def is_finished(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the last row of the episode is there."""
        return np.not_equal(self._until[numbers % self._capacity], UNKNOWN)

    def step(self, view: TableView, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps since the episode's first row, -1 where that row, or the end before it, is no longer stored.

        The end before it must be there because an index made anew has nothing else to tell a first row by, and must
        say the same as one that has seen all.
        """
        since = self._since[numbers % self._capacity].astype(np.int64)
        first = numbers - since * self._num_streams
        is_sure = (first - self._num_streams >= view.oldest) | ((first < self._num_streams) & (first >= view.oldest))
        return np.where(is_sure, since, UNKNOWN)

    def _look(self, view: TableView, start: int, stop: int) -> None:
        """Note rows `start` to `stop`, at most `capacity` of them."""
        streams = self._num_streams
        if stop - start <= streams:
            self._look_at_one_step(view, np.arange(start, stop))
            return
        low = start - start % streams
        rounds = -(-(stop - low) // streams)
        slots = np.arange(start, stop) % self._capacity
        grid = np.zeros(rounds * streams, np.bool_)
        grid[start - low : stop - low] = self._is_end(view, slots)
        end = grid.reshape(rounds, streams)

        step = np.arange(rounds)[:, None]
        following = np.minimum.accumulate(np.where(end, step, rounds)[::-1], axis=0)[::-1]  # step of the next end
        leading = np.maximum.accumulate(np.where(end, step + 1, 0), axis=0)  # step after the last end
        last = leading[-1]
        leading = np.vstack([np.zeros((1, streams), np.int64), leading[:-1]])
        earlier = (low + self._streams - self._first) // streams  # steps of the running episode before this grid
        since = np.where(leading > 0, step - leading, step + earlier)
        until = np.where(following < rounds, following - step, UNKNOWN)
        self._since[slots] = since.reshape(-1)[start - low : stop - low]
        self._until[slots] = until.reshape(-1)[start - low : stop - low]

        ended = np.flatnonzero(last)
        if len(ended):
            self._finish(ended, low + following[0, ended] * streams + ended, start, stop)
            self._first[ended] = low + last[ended] * streams + ended

    def _look_at_one_step(self, view: TableView, rows: NDArray[np.int64]) -> None:
        """Note rows of different streams, as a loop that draws after every step appends them; a third of the time."""
        slots, streams = rows % self._capacity, rows % self._num_streams
        end = self._is_end(view, slots)
        self._since[slots] = (rows - self._first[streams]) // self._num_streams
        self._until[slots] = np.where(end, 0, UNKNOWN)
        if end.any():
            ended, ends = streams[end], rows[end]
            self._finish(ended, ends, int(rows[0]), int(rows[-1]) + 1)
            self._first[ended] = ends + self._num_streams

    def _is_end(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        end = np.zeros(len(slots), np.bool_)
        for name in self._ends:
            end |= view.column(name)[slots] != 0
        return end

    def _finish(self, streams: NDArray[np.int64], ends: NDArray[np.int64], start: int, stop: int) -> None:
        """Note the way to their ends for the rows before `start` of episodes that ended behind it."""
        stride = self._num_streams
        kept = stop - self._capacity  # rows below lie under the new ones
        first = np.maximum(self._first[streams], kept + (streams - kept) % stride)
        here = start + (streams - start) % stride  # the first row of each stream at or behind `start`
        counts = np.maximum(here - first, 0) // stride
        behind = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(first, counts) + behind * stride
        self._until[rows % self._capacity] = (np.repeat(ends, counts) - rows) // stride
