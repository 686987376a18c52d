"""A change in bfloat16: half the bytes, and right on average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.aggregation.compress_parts import Encoded, check_parts
from fedmb.arrays.bfloat16 import BFLOAT16, dithered, widened

if TYPE_CHECKING:
    import numpy as np

    from fedmb.aggregation.compress_parts import Parts, Vector


class BFloat16Change:
    """Each number is rounded to one of its two neighbours, by chance, so that its expectation is the number.

    Rounding to the nearest errs less each time, by up to 2^-9 of the number, but the same way for all clients that
    change alike and in every round that repeats; such errors do not average out, these do. It needs no memory.

    Source: stochastic rounding as in QSGD, Alistarh et al. 2017, arXiv:1610.02132, section 3.1.
    """

    has_memory = False

    def encode(self, change: Vector, memory: Vector | None, random: np.random.Generator) -> Encoded:
        """`change` in two bytes a number."""
        return Encoded({"bits": dithered(change, random)["bfloat16"]}, None)

    def decode(self, parts: Parts, size: int) -> Vector:
        """The change that travelled.

        Raises:
            ShapeError: the parts are not those of `size` numbers.
        """
        check_parts("bf16", parts, {"bits": ("uint16", size)})
        change: Vector = widened(parts["bits"].astype("<u2", copy=False).view(BFLOAT16))
        return change
