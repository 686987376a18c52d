"""One NumPy array as Flower's Array and back: an npy block, whose header is written and read here.

Flower saves and loads through files in memory, which costs three copies. Here the block is joined from a header and
the array's own bytes, one copy, and read as a view behind the header, none. Nothing is unpickled: a header must have
the one form that NumPy writes for plain numbers.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, "Format Version 1.0".
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from flwr.app import Array

from fedmb.arrays.flat import MAX_BYTES, MAX_DIMENSIONS
from fedmb.arrays.joined import joined
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUMPY = "numpy.ndarray"  # Flower's name for npy blocks
_MAGIC = b"\x93NUMPY"
_VERSIONS = {b"\x01\x00": 2, b"\x02\x00": 4}  # bytes of the header's length
_PREFIX = len(_MAGIC) + 2
_ALIGNED = 64  # bytes that NumPy fills magic, length and header up to
_MAX_HEADER = 1024  # bytes: 32 sizes of 20 digits, and the words around them
_HEADER = re.compile(
    rb"\{'descr': '(\|b1|\|[iu]1|[<>][iuf][248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,16}, ?)*\d{0,16})\), ?\} *\n"
)


def to_block(parts: Sequence[NDArray[Any]], shape: tuple[int, ...]) -> Array:
    """Flower's form of an array of `shape` whose elements are those of `parts`, one after the other; one copy."""
    dtype = parts[0].dtype
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    head = _PREFIX + 2
    header = text.encode() + b" " * (-(head + len(text) + 1) % _ALIGNED) + b"\n"
    raw = (np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in parts)
    data = joined((_MAGIC, b"\x01\x00", len(header).to_bytes(2, "little"), header, *raw))
    return Array(str(dtype), shape, NUMPY, data)


def from_block(name: str, array: Array) -> NDArray[Any]:
    """A read-only view of the numbers in Flower's form of an array; `name` is for the error.

    Raises:
        ShapeError: it is no npy block of plain numbers, or holds more or fewer than its header says.
    """
    data, stype = array.data, array.stype
    width = _VERSIONS.get(bytes(data[len(_MAGIC) : _PREFIX]))
    if stype != NUMPY or data[: len(_MAGIC)] != _MAGIC or width is None:
        _refuse(name, f"{bytes(data[:_PREFIX])!r} of type {str(stype)[:40]!r}")
    length = int.from_bytes(data[_PREFIX : _PREFIX + width], "little")
    start = _PREFIX + width + length
    if length > _MAX_HEADER or start > len(data):
        _refuse(name, f"a header of {length} bytes in {len(data)}")
    found = _HEADER.fullmatch(data[_PREFIX + width : start])
    if found is None:
        _refuse(name, repr(bytes(data[_PREFIX + width : start])[:80]))
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(size) for size in found[3].replace(b" ", b"").split(b",") if size)
    size = math.prod(shape) * dtype.itemsize
    if len(shape) > MAX_DIMENSIONS or size > MAX_BYTES or size != len(data) - start:
        _refuse(name, f"{len(data) - start} bytes for {dtype} of shape {shape}")
    return np.ndarray(shape, dtype, data, start, order="F" if found[2] == b"True" else "C")


def _refuse(name: str, got: str) -> NoReturn:
    raise ShapeError(f"array {name[:80]!r} must be a readable npy block, got: {got}; reject the message")
