"""Which parents of a wide tree no longer follow from their children.

Writing leaves is all that a write pays for; parents are recomputed before the next read. A tree that is written a
thousand times between two reads repairs each parent once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.replay.tree_shape import RADIX_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

FULL_SHARE = 4
"""Recomputing every parent is cheaper than a chosen quarter of them."""
MAX_PARTS = 64


class StaleNodes:
    """Remembers written leaves until their parents are asked for.

    Args:
        num_parents: nodes of the level above the leaves.
    """

    def __init__(self, num_parents: int) -> None:
        self._most = num_parents // FULL_SHARE
        self._parts: list[NDArray[np.int64]] = []
        self._all = False

    def __bool__(self) -> bool:
        return self._all or bool(self._parts)

    def add(self, leaves: NDArray[np.int64]) -> None:
        """These leaves were written."""
        if self._all:
            return
        self._parts.append(leaves >> RADIX_BITS)
        if len(self._parts) > MAX_PARTS:
            self._join()

    def add_all(self) -> None:
        """Any leaf may have been written."""
        self._all = True
        self._parts.clear()

    def take(self) -> NDArray[np.int64] | None:
        """Parents to be recomputed, from now on up to date; None means all of them."""
        if len(self._parts) > 1:
            self._join()
        if self._all:
            self._all = False
            return None
        (nodes,) = self._parts
        self._parts = []
        return nodes

    def _join(self) -> None:
        nodes = np.unique(np.concatenate(self._parts))
        if len(nodes) > self._most:
            self.add_all()
        else:
            self._parts = [nodes]
