"""Which leaves are lowest: a tree of minima over (value, rank), where of equal values the lower rank is lower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import ShapeError
from fedmb.replay.stale_nodes import StaleNodes
from fedmb.replay.tree_shape import RADIX, RADIX_BITS, level_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.sampler import Priorities, Slots

LAST = np.iinfo(np.int64).max


def lowest_places(values: Priorities, ranks: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where the `count` lowest pairs lie, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    border = np.partition(values, count - 1)[count - 1]
    below, equal = np.flatnonzero(values < border), np.flatnonzero(values == border)
    missing = count - len(below)
    if missing < len(equal):
        equal = equal[np.argpartition(ranks[equal], missing - 1)[:missing]]
    return np.concatenate([below, equal])


class LowestTree:
    """Leaves 0 to `capacity` - 1, each a value and a rank; infinitely high at first.

    A node holds the lowest pair of its sixteen children. The lowest k leaves lie under the lowest k nodes of each
    level, so a query looks at sixteen times k nodes a level.
    """

    def __init__(self, capacity: int) -> None:
        sizes = level_sizes(capacity)
        self._capacity = capacity
        self._values = [np.full(size, np.inf) for size in sizes]
        self._ranks = [np.full(size, LAST) for size in sizes]
        self._stale = StaleNodes(sizes[1]) if len(sizes) > 1 else None

    @property
    def values(self) -> Priorities:
        """Value of every leaf, a live view not to be written to."""
        return self._values[0][: self._capacity]

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of every leaf, a live view not to be written to."""
        return self._ranks[0][: self._capacity]

    def set(self, slots: Slots, values: Priorities, ranks: NDArray[np.int64] | None = None) -> None:
        """Set distinct leaves; without ranks, only their values."""
        self._values[0][slots] = values
        if ranks is not None:
            self._ranks[0][slots] = ranks
        if self._stale is not None and len(slots):
            self._stale.add(slots)

    def forget(self, slots: Slots) -> None:
        """Make distinct leaves infinitely high."""
        self.set(slots, np.full(len(slots), np.inf), np.full(len(slots), LAST))

    def load(self, values: Priorities, ranks: NDArray[np.int64]) -> None:
        """Set every leaf.

        Raises:
            ShapeError: their number is another one.
        """
        if values.shape != self.values.shape or ranks.shape != values.shape:
            raise ShapeError(f"a state of {len(values)} leaves does not fit {self._capacity}; use the same capacity")
        self.values[:], self.ranks[:] = values, ranks
        if self._stale is not None:
            self._stale.add_all()

    def lowest(self, count: int) -> Slots:
        """At most `count` leaves, the lowest ones, ascending by value and rank."""
        self._repair()
        nodes: Slots = lowest_places(self._values[-1], self._ranks[-1], count)
        for values, ranks in zip(self._values[-2::-1], self._ranks[-2::-1], strict=True):
            nodes = ((nodes << RADIX_BITS)[:, None] + np.arange(RADIX)).ravel()
            nodes = nodes[lowest_places(values[nodes], ranks[nodes], count)]
        nodes = nodes[self._ranks[0][nodes] != LAST]
        return nodes[np.lexsort((self._ranks[0][nodes], self._values[0][nodes]))]

    def _repair(self) -> None:
        if not self._stale:
            return
        nodes = self._stale.take()
        for level in range(len(self._values) - 1):
            values, ranks = (part[level].reshape(-1, RADIX) for part in (self._values, self._ranks))
            if nodes is not None:
                values, ranks = values.take(nodes, 0), ranks.take(nodes, 0)
            low = values.min(1)
            first = np.where(values == low[:, None], ranks, LAST).min(1)
            target = slice(0, len(low)) if nodes is None else nodes
            self._values[level + 1][target] = low
            self._ranks[level + 1][target] = first
            nodes = None if nodes is None else nodes >> RADIX_BITS
