"""The steps of a weighted sum, compiled by numba: one pass over the values in place of three, and the same bits.

The sum of a block lies in a core's second cache. Adding four models in one pass reads and writes it once in place of
four times, which took a third of the time.

Imported only where numba is installed and there is enough to sum. It holds no lock of the interpreter, so that threads
sum beside each other; what was compiled is kept on disk until this file changes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray


def _values(dtype: Any) -> Any:  # numba's types have none
    return types.Array(dtype, 1, "C", readonly=True)


def _jit(models: int) -> Callable[[Any], Callable[..., None]]:
    """Compile a step of so many models, and keep the result on disk where there is a place for it."""

    def compiled(function: Any) -> Callable[..., None]:
        weights = [types.float64] * models
        signatures = [
            types.void(types.float64[::1], *[_values(dtype)] * models, *weights) for dtype in _DTYPES.values()
        ]
        try:
            made: Callable[..., None] = numba.njit(signatures, nogil=True, cache=True)(function)
        except RuntimeError:  # no place: a read-only installation, and no home
            made = numba.njit(signatures, nogil=True)(function)
        return made

    return compiled


FOUR = 4  # models in one pass
_DTYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}
SUMMED = frozenset(_DTYPES)
"""Dtypes that these steps take; the others are numpy's to convert."""


@_jit(1)
def add_weighted(total: NDArray[np.float64], values: NDArray[Any], weight: float) -> None:
    """Add `weight * values` to `total`, `(elements,)` each; product and sum are rounded apart, as numpy rounds them."""
    for place in range(len(total)):
        total[place] += weight * np.float64(values[place])


@_jit(FOUR)
def _add_four(
    total: NDArray[np.float64],
    one: NDArray[Any],
    two: NDArray[Any],
    three: NDArray[Any],
    four: NDArray[Any],
    weight: float,
    weight_two: float,
    weight_three: float,
    weight_four: float,
) -> None:
    """What `add_weighted` does four times, one after the other."""
    for place in range(len(total)):
        sum_ = total[place] + weight * np.float64(one[place])
        sum_ += weight_two * np.float64(two[place])
        sum_ += weight_three * np.float64(three[place])
        total[place] = sum_ + weight_four * np.float64(four[place])


def add_all(total: NDArray[np.float64], terms: Iterable[tuple[Sequence[NDArray[Any]], float]]) -> None:
    """Add `weight * values` of every term to `total`, `(elements,)`, in their order.

    Args:
        total: where the sum is.
        terms: values, in parts that follow each other, and their weight; four of them are held at a time.
    """
    left = iter(terms)
    while some := list(islice(left, FOUR)):
        sizes = [[len(part) for part in parts] for parts, _ in some]
        alike = len(some) == FOUR and all(one == sizes[0] for one in sizes)
        add = _add_four if alike else add_weighted
        for together in [some] if alike else [[one] for one in some]:
            at, weights = 0, [weight for _, weight in together]
            for values in zip(*(parts for parts, _ in together), strict=True):
                add(total[at : at + len(values[0])], *values, *weights)
                at += len(values[0])
