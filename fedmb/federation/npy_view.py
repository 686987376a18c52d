"""The arrays of a Flower record without needless copies of their bytes.

Flower keeps an array as the bytes of an npy file and copies them on every reading, and twice on every writing. Its
values are there already, behind a header; a sum needs no more than a look at them.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.update import Arrays

_MAGIC = b"\x93NUMPY\x01\x00"
_PREFIX = len(_MAGIC) + 2  # the magic and the header's length, which precede the header
_KEYS = {"descr", "fortran_order", "shape"}
_KINDS = "biuf"  # booleans, integers and floats; an object would be a pickle
_LONGEST_HEADER = 4096  # bytes; numpy writes 118 for any array that a model has


def viewed(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Named arrays that share the record's bytes and cannot be written to; nothing is unpickled.

    Raises:
        ShapeError: the bytes of an array are no npy file of numbers.
    """
    arrays = {}
    for name, array in record.items():
        try:
            arrays[name] = _view(array)
        except Exception as error:  # a parser of bytes that anybody may have written
            raise ShapeError(
                f"array {name!r} must be a readable npy block, got: {error}; reject the message"
            ) from error
    return arrays


def packed(arrays: Arrays) -> ArrayRecord:
    """Flower's form of named arrays, byte for byte as Flower makes it, with one copy."""
    return ArrayRecord({name: _packed(np.asarray(array)) for name, array in arrays.items()})


def _packed(array: NDArray[Any]) -> Array:
    if not array.flags.c_contiguous or array.dtype.kind not in _KINDS:
        return Array(array)
    data = b"".join((_written_header(array.dtype, array.shape), array.reshape(-1).view(np.uint8).data))
    return Array(dtype=str(array.dtype), shape=array.shape, stype="numpy.ndarray", data=data)


@lru_cache(maxsize=4096)
def _written_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()


def _view(array: Array) -> NDArray[Any]:
    data = array.data
    if not data.startswith(_MAGIC):
        return array.numpy()  # another version of the form, which numpy writes for odd dtypes only
    dtype, shape, order, begin = _header(data[: _begin(data)])
    return np.ndarray(shape, dtype, data, begin, order=order) if 0 not in shape else np.empty(shape, dtype)


def _begin(data: bytes) -> int:
    """Where an array's values begin.

    Raises:
        ValueError: further behind than the header of any array that a model has.
    """
    begin = _PREFIX + int.from_bytes(data[len(_MAGIC) : _PREFIX], "little")
    if begin > _LONGEST_HEADER:
        raise ValueError(f"its header has {begin} bytes, at most {_LONGEST_HEADER} are read")
    return begin


@lru_cache(maxsize=4096)  # a model's arrays have few different headers, and every client sends the same
def _header(text: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"], int]:
    told = ast.literal_eval(text[_PREFIX:].decode("latin1").strip())
    if not isinstance(told, dict) or told.keys() != _KEYS or not isinstance(told["descr"], str):
        raise ValueError("its header is not that of an array of numbers")
    dtype, shape = np.dtype(told["descr"]), told["shape"]
    if dtype.kind not in _KINDS:
        raise ValueError(f"its dtype {told['descr']!r} is none of numbers")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its shape is {shape!r}")
    return dtype, shape, "F" if told["fortran_order"] else "C", len(text)
