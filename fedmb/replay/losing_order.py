"""The kept rows of one group in the order in which they go: the largest key first."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LosingOrder:
    """Answers which row goes next. Those known from the beginning are sorted once, later ones lie in a heap.

    Args:
        keys: of the rows, `(rows,)`.
        places: their places, `(rows,)`.
    """

    def __init__(self, keys: NDArray[np.float64], places: NDArray[np.int64]) -> None:
        order = np.argsort(-keys, kind="stable")
        self._keys, self._places = keys[order], places[order]
        self._next = 0
        self._later: list[tuple[float, int]] = []

    @property
    def largest(self) -> float:
        """Key of the row that goes next; minus infinity where there is none."""
        key = float(self._keys[self._next]) if self._next < len(self._keys) else -np.inf
        return max(key, -self._later[0][0]) if self._later else key

    def push(self, key: float, place: int) -> None:
        """Take a row in."""
        heapq.heappush(self._later, (-key, place))

    def pop(self) -> int:
        """Let the next row go, and answer its place."""
        if self._later and (self._next == len(self._keys) or -self._later[0][0] > self._keys[self._next]):
            return heapq.heappop(self._later)[1]
        self._next += 1
        return int(self._places[self._next - 1])
