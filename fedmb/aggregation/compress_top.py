"""The largest numbers of a change alone, with the others remembered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedmb.aggregation.compress_parts import Encoded, check_parts
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from fedmb.aggregation.compress_parts import Parts, Vector


class TopChange:
    """The share of a change's numbers that is largest, as places and values; what stays behind is added to the next.

    Args:
        share: part of the numbers that travels, over 0 and at most 1; each costs eight bytes.

    Source: Stich et al. 2018, "Sparsified SGD with Memory", arXiv:1809.07599, algorithm 1.
    """

    has_memory = True

    def __init__(self, share: float) -> None:
        self._share = share

    def encode(self, change: Vector, memory: Vector | None, random: np.random.Generator) -> Encoded:
        """The largest numbers of `change` with what was left of earlier ones."""
        left = np.array(change, np.float32) if memory is None else change + memory
        count = self._count(left.size)
        places = np.sort(np.argpartition(np.abs(left), left.size - count)[left.size - count :]) if count else ()
        places = np.asarray(places, np.uint32)
        values = left[places]
        left[places] = 0
        return Encoded({"places": places, "values": values}, left)

    def decode(self, parts: Parts, size: int) -> Vector:
        """The change that travelled, zero elsewhere.

        Raises:
            ShapeError: the parts are not those of `size` numbers, or places do not rise.
        """
        count = self._count(size)
        check_parts("top", parts, {"places": ("uint32", count), "values": ("float32", count)})
        places = parts["places"].astype(np.int64)
        if count and not (places[-1] < size and (np.diff(places) > 0).all()):
            raise ShapeError(f"places of a change must rise and stay below {size}, got others; reject the update")
        change = np.zeros(size, np.float32)
        change[places] = parts["values"]
        return change

    def _count(self, size: int) -> int:
        return math.ceil(size * self._share)
