"""A change in eight bits a number, with what was rounded away remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.aggregation.compress_parts import Encoded, check_parts
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from fedmb.aggregation.compress_parts import Parts, Vector

_STEPS = 127  # on either side of zero


class Int8Change:
    """Blocks of numbers, each a multiple of the block's scale, which is its largest number over 127.

    Args:
        block: numbers in a block; small ones follow the sizes of layers better and cost four bytes each.

    Source: error feedback: Seide et al. 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
        Distributed Training of Speech DNNs", section 2.1; Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2.
    """

    has_memory = True

    def __init__(self, block: int) -> None:
        self._block = block

    def encode(self, change: Vector, memory: Vector | None, random: np.random.Generator) -> Encoded:
        """`change` with what was left of earlier ones, in one byte a number."""
        wanted = change if memory is None else change + memory
        rows = np.zeros((-(-wanted.size // self._block), self._block), np.float32)
        rows.reshape(-1)[: wanted.size] = wanted
        scales = np.abs(rows).max(axis=1, initial=0) / np.float32(_STEPS)
        rows /= np.where(scales > 0, scales, np.float32(1))[:, None]
        steps = np.clip(np.rint(rows), -_STEPS, _STEPS).astype(np.int8).reshape(-1)[: wanted.size]
        parts = {"steps": steps, "scales": scales.astype(np.float32, copy=False)}
        return Encoded(parts, wanted - self.decode(parts, wanted.size))

    def decode(self, parts: Parts, size: int) -> Vector:
        """The change that travelled.

        Raises:
            ShapeError: the parts are not those of `size` numbers, or a scale is none.
        """
        blocks = -(-size // self._block)
        check_parts("int8", parts, {"steps": ("int8", size), "scales": ("float32", blocks)})
        scales = parts["scales"]
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise ShapeError("a block's scale must be finite and not negative, got another; reject the update")
        change: Vector = parts["steps"].astype(np.float32)
        whole = size // self._block
        change[: whole * self._block].reshape(whole, self._block)[...] *= scales[:whole, None]
        change[whole * self._block :] *= scales[whole:]  # at most one, of a block that is not full
        return change
