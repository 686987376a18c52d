"""A sum tree over slots: draws in proportion to leaves, in numpy, in whole batches.

Leaves are float64, sixteen children make a parent, and the topmost level (4096 nodes at most) is searched through its
cumulative sum. A parent is always recomputed from its children, never adjusted by a difference: a tree that was
written a billion times holds the same sums, to the bit, as one built afresh from its leaves. With adjusted or float32
sums a draw sooner or later lands on a leaf that is zero.

With numba installed the same steps run compiled and give the same bits (`tree_kernels.py`).
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.stale_nodes import StaleNodes
from fedmb.replay.tree_shape import BELOW_ONE, RADIX, RADIX_BITS, level_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.sampler import Priorities, Slots

Kernels: TypeAlias = Literal["auto", "numpy", "numba"]

SMALLEST = float(np.finfo(np.float64).tiny)
"""Leaves below it count as 0: what follows needs products that are not subnormal."""
LARGEST = 1e290
"""Leaves may not be larger: the sum of any number of them then is finite."""
CACHE_LINE = 64


def compiled(kernels: Kernels) -> Any | None:  # numba's functions have no types
    """The compiled steps, or None where numpy's are asked for, or are all there is.

    Raises:
        SettingsError: numba is asked for and not installed, or the choice is unknown.
    """
    if kernels not in {"auto", "numpy", "numba"}:
        raise SettingsError(f"kernels must be auto, numpy or numba, got {kernels!r}", key="kernels")
    if kernels == "numpy" or (kernels == "auto" and importlib.util.find_spec("numba") is None):
        return None
    try:
        from fedmb.replay import tree_kernels
    except ImportError as error:
        raise SettingsError(
            "kernels='numba' needs numba, which is not installed; pip install 'fedmb[numba]' or use kernels='auto'",
            key="kernels",
        ) from error
    return tree_kernels


def aligned_zeros(length: int) -> NDArray[np.float64]:
    """Zeros that begin at a cache line, so that sixteen children lie on two lines and not on three."""
    raw = np.zeros(length + CACHE_LINE // 8)
    first = -raw.ctypes.data % CACHE_LINE // 8
    return raw[first : first + length]


class SumTree:
    """Leaves 0 to `capacity` - 1, zero at first, drawn in proportion to their values.

    Args:
        capacity: number of leaves.
        kernels: "numba" compiles, "numpy" does not, "auto" compiles where numba is installed; same results.

    Raises:
        SettingsError: numba is asked for and not installed.
    """

    def __init__(self, capacity: int, *, kernels: Kernels = "auto") -> None:
        sizes = level_sizes(capacity)
        self._capacity = capacity
        self._tree = aligned_zeros(sum(sizes))
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._levels = [self._tree[start : start + size] for start, size in zip(self._starts, sizes, strict=False)]
        self._groups = [level.reshape(-1, RADIX) for level in self._levels[:-1]]
        self._leaves = self._levels[0][:capacity]
        self._stale = StaleNodes(sizes[1]) if len(sizes) > 1 else None
        self._ends = np.zeros(sizes[-1])  # cumulative sum of the topmost level
        self._fresh = True
        self._compiled = compiled(kernels)

    @property
    def leaves(self) -> Priorities:
        """Every leaf, a live view not to be written to."""
        return self._leaves

    def set(self, slots: Slots, values: Priorities) -> None:
        """Set distinct leaves to values from 0 to 1e290; their parents follow at the next read."""
        self._leaves[slots] = values if values.min(initial=1.0) >= SMALLEST else np.where(values < SMALLEST, 0, values)
        self._fresh = False
        if self._stale is not None:
            self._stale.add(slots)

    def load(self, leaves: Priorities) -> None:
        """Set every leaf.

        Raises:
            ShapeError: their number is another one.
        """
        if leaves.shape != self._leaves.shape:
            raise ShapeError(f"a state of {len(leaves)} leaves does not fit {self._capacity}; use the same capacity")
        self._leaves[:] = leaves
        self._fresh = False
        if self._stale is not None:
            self._stale.add_all()

    def total(self) -> float:
        """Sum of all leaves."""
        if not self._fresh:
            self._repair()
        return float(self._ends[-1])

    def draw(self, size: int, random: np.random.Generator, *, stratified: bool = True) -> Slots:
        """`size` leaves in proportion to their values; a leaf that is 0 is never drawn.

        Args:
            size: leaves wanted.
            random: asked for `size` numbers.
            stratified: the sum is cut into `size` equal stretches and one leaf drawn from each, which answers leaves
                in ascending order and varies less; otherwise draws are independent.

        Raises:
            NotEnoughData: every leaf is 0.
        """
        total = self.total()
        if total == 0:
            raise NotEnoughData(
                f"a draw of {size} needs a priority above 0, all are 0; append rows or raise priorities"
            )
        chances = random.random(size)
        if stratified:
            chances += np.arange(size)
            chances *= total / size
        else:
            chances *= total
        np.minimum(chances, total * BELOW_ONE, out=chances)
        if self._compiled is not None:
            slots: Slots = self._compiled.find(self._tree, self._starts, self._ends, chances)
            return slots
        return self._find(chances)

    def _find(self, targets: NDArray[np.float64]) -> Slots:
        """The leaf on which each target lies, the leaves laid end to end. Overwrites the targets."""
        nodes = self._ends.searchsorted(targets, "right")
        if not self._groups:
            return nodes
        targets -= np.where(nodes > 0, self._ends[nodes - 1], 0.0)
        places = np.arange(len(nodes))
        ends = np.zeros((RADIX + 1, len(nodes)))  # of each child, one row a child: sums go along rows, and are fast
        flat = ends.ravel()
        for groups in reversed(self._groups):
            ends[1:] = groups.take(nodes, 0).T
            before = ends[1]
            for end in ends[2:]:
                np.add(before, end, out=end)
                before = end
            np.minimum(targets, before * BELOW_ONE, out=targets)
            child = (ends[1:] <= targets).view(np.uint8).sum(0, dtype=np.uint8).astype(np.int64)
            targets -= flat.take(child * len(nodes) + places)
            nodes <<= RADIX_BITS
            nodes += child
        return nodes

    def _repair(self) -> None:
        """Recompute what no longer follows from the leaves."""
        if self._stale:
            nodes = self._stale.take()
            if nodes is None:
                for groups, parents in zip(self._groups, self._levels[1:], strict=True):
                    parents[: len(groups)] = groups.sum(1)
            elif self._compiled is not None:
                self._compiled.repair(self._tree, self._starts, nodes)
            else:
                for groups, parents in zip(self._groups, self._levels[1:], strict=True):
                    parents[nodes] = groups.take(nodes, 0).sum(1)
                    nodes >>= RADIX_BITS
        np.cumsum(self._levels[-1], out=self._ends)
        self._fresh = True
