"""The shape that wide trees share: sixteen children a node, and a topmost level that is searched flat."""

from __future__ import annotations

RADIX_BITS = 4
RADIX = 1 << RADIX_BITS
"""Children of a node. Of 8, 16, 32 and 64, sixteen (two cache lines) makes the fastest cycle of draw and update."""
MAX_TOP = 4096
"""Levels end where this few nodes are left, which one cumulative sum (about 10 us) and one binary search cover."""
BELOW_ONE = 1 - 2.0**-52
"""A positive sum times it is smaller than the sum, and so lies before the end of its last child that is not 0."""


def level_sizes(capacity: int) -> list[int]:
    """Nodes of each level, the `capacity` leaves first; all but the top are filled up to whole groups of children."""
    sizes = [capacity]
    while sizes[-1] > MAX_TOP:
        parents = -(-sizes[-1] // RADIX)
        sizes[-1] = parents * RADIX
        sizes.append(parents)
    return sizes
