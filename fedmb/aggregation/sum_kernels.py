"""The step of a weighted sum, compiled by numba: one pass over the values in place of three, and the same bits.

Imported only where numba is installed and there is enough to sum. It holds no lock of the interpreter, so that threads
sum beside each other; what was compiled is kept on disk until this file changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def _values(dtype: Any) -> Any:  # numba's types have none
    return types.Array(dtype, 1, "C", readonly=True)


def _jit(function: Any) -> Callable[..., None]:
    """Compile, and keep the result on disk where there is a place for it."""
    signatures = [types.void(types.float64[::1], _values(dtype), types.float64) for dtype in _DTYPES.values()]
    try:
        compiled: Callable[..., None] = numba.njit(signatures, nogil=True, cache=True)(function)
    except RuntimeError:  # no place: a read-only installation, and no home
        compiled = numba.njit(signatures, nogil=True)(function)
    return compiled


_DTYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}
SUMMED = frozenset(_DTYPES)
"""Dtypes that `add_weighted` takes; the others are numpy's to convert."""


@_jit
def add_weighted(total: NDArray[np.float64], values: NDArray[Any], weight: float) -> None:
    """Add `weight * values` to `total`, `(elements,)` each; product and sum are rounded apart, as numpy rounds them."""
    for place in range(len(total)):
        total[place] += weight * np.float64(values[place])
