"""The steps of `sum_tree.py`, compiled by numba: the same sums in the same order, and so the same bits.

Imported only where numba is installed. They hold no lock of the interpreter, so that threads sample beside each other.
What was compiled is kept on disk until this file changes; whoever changes `tree_shape.py` touches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from fedmb.replay.tree_shape import BELOW_ONE, RADIX, RADIX_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LANES = RADIX // 2


def jit(signature: str) -> Callable[[Any], Any]:
    """Compile for one signature, and keep the result on disk where there is a place for it."""

    def compiled(function: Any) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no place: a read-only installation, and no home
            return numba.njit(signature, nogil=True)(function)

    return compiled


@jit("void(float64[::1], int64[::1], int64[::1])")
def repair(tree: NDArray[np.float64], starts: NDArray[np.int64], nodes: NDArray[np.int64]) -> None:
    """Recompute `nodes` of the first level above the leaves, and all above them. Overwrites `nodes`.

    Sixteen numbers are added as numpy's pairwise sum adds them: eight lanes, then the lanes in pairs.
    """
    lane = np.empty(LANES)
    for level in range(len(starts) - 2):
        for place in range(len(nodes)):
            first = starts[level] + nodes[place] * RADIX
            for child in range(LANES):
                lane[child] = tree[first + child] + tree[first + LANES + child]
            sum_ = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]))
            tree[starts[level + 1] + nodes[place]] = sum_
            nodes[place] >>= RADIX_BITS


@jit("int64[::1](float64[::1], int64[::1], float64[::1], float64[::1])")
def find(
    tree: NDArray[np.float64], starts: NDArray[np.int64], ends: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The leaf on which each target lies, the leaves laid end to end."""
    nodes = np.zeros(len(targets), np.int64)
    step = len(ends)
    while step > 1:  # all targets a step, without a branch: wrong guesses cost more than needless comparisons
        half = step // 2
        for place in range(len(targets)):
            nodes[place] += half * np.int64(ends[nodes[place] + half - 1] <= targets[place])
        step -= half
    for place in range(len(targets)):
        nodes[place] += np.int64(ends[nodes[place]] <= targets[place])
        if nodes[place] > 0:
            targets[place] -= ends[nodes[place] - 1]
    end = np.zeros(RADIX + 1)
    for level in range(len(starts) - 3, -1, -1):
        for place in range(len(targets)):
            first = starts[level] + nodes[place] * RADIX
            target, total, before = targets[place], 0.0, np.int64(0)
            for child in range(RADIX):
                total += tree[first + child]
                end[child + 1] = total
                before += np.int64(total <= target)
            if before == RADIX:  # rounding: the target lies behind the last child
                target, before = total * BELOW_ONE, np.int64(0)
                for child in range(RADIX):
                    before += np.int64(end[child + 1] <= target)
            targets[place] = target - end[before]
            nodes[place] = (nodes[place] << RADIX_BITS) + before
    return nodes
