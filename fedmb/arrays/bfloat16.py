"""bfloat16 in NumPy, which has none: the bits, in a dtype that nobody takes for a number.

An array of `BFLOAT16` holds one field of sixteen bits in each element, so it keeps its name and two bytes a value
wherever arrays are stored or sent, and arithmetic on it is refused instead of being wrong. `widened` makes float32 of
it, which is exact; `rounded` and `dithered` go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""dtype of arrays of bfloat16."""

_EXPONENT = np.uint16(0x7F80)
_QUIET = np.uint32(0x00400000)  # bit that keeps a NaN one when its lower half is cut off
_EXPONENT_32 = np.uint32(0x7F800000)
_BLOCK = 1 << 16  # elements: scratch stays in the cache


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of `dtype` may be averaged: floating ones may, counters and masks may not."""
    return bool(dtype == BFLOAT16 or np.issubdtype(dtype, np.floating))


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """float32 of the same shape where `array` is bfloat16, exactly; `array` itself otherwise."""
    if array.dtype != BFLOAT16:
        return array
    bits = array["bfloat16"].astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def rounded(values: NDArray[Any]) -> NDArray[Any]:
    """The nearest bfloat16 of each value, the even one of two; too large ones become infinite, NaN stays."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return _cut(bits, half).reshape(np.shape(values))


def dithered(values: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """One of the two neighbours of each value, the nearer the likelier, so that the expectation is the value.

    Source: stochastic rounding, Gupta et al. 2015, arXiv:1502.02551, section 3.1.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
    result = np.empty(flat.size, BFLOAT16)
    for start in range(0, flat.size, _BLOCK):
        bits = flat[start : start + _BLOCK]
        noise = random.integers(0, 1 << 16, bits.size, np.uint16).astype(np.uint32)
        result[start : start + _BLOCK] = _cut(bits, noise)
    return result.reshape(np.shape(values))


def _cut(bits: NDArray[np.uint32], added: NDArray[np.uint32]) -> NDArray[Any]:
    """Upper halves of `bits + added`; what is not finite is only cut."""
    finite = (bits & _EXPONENT_32) != _EXPONENT_32
    is_nan = ~finite & ((bits & ~(_EXPONENT_32 | np.uint32(0x80000000))) != 0)
    moved = np.where(finite, bits + added, np.where(is_nan, bits | _QUIET, bits))
    return (moved >> np.uint32(16)).astype(np.uint16).view(BFLOAT16)


def is_finite(array: NDArray[Any]) -> bool:
    """Whether every number is finite; whole numbers are."""
    if array.dtype == BFLOAT16:
        return bool(((array["bfloat16"] & _EXPONENT) != _EXPONENT).all())
    if not np.issubdtype(array.dtype, np.inexact):
        return True
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[start : start + _BLOCK]).all()) for start in range(0, flat.size, _BLOCK))
