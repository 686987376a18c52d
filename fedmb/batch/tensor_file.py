"""Tables in `.safetensors` form: a length, a JSON header, and the numbers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.npy import BROKEN, ArrayHeader, check_size
from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER_BYTES = 100_000_000  # the format's own limit, which keeps a hostile length from filling the memory
LENGTH_BYTES = 8

DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
}
"""The format's dtypes that NumPy has."""


def read_safetensors(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The tensors of a `.safetensors` file, by name.

    Raises:
        DecodeError: it is broken, larger than `max_bytes`, or holds a dtype that NumPy lacks.
    """
    import safetensors
    import safetensors.numpy

    check_size(path, path.stat().st_size, max_bytes)
    try:
        columns: dict[str, NDArray[Any]] = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, *BROKEN) as error:
        raise _unreadable(path, error) from error
    return columns


def tensor_headers(path: Path) -> dict[str, ArrayHeader]:
    """Where each tensor of a `.safetensors` file lies, by name, without reading it.

    Raises:
        DecodeError: the header is broken, names a dtype that NumPy lacks, or bytes that the file does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise DecodeError(f"a .safetensors header must fit its file, got {length} bytes in {path}; save it again")
        text = stream.read(length)
    start = LENGTH_BYTES + length
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        return {name: _header_of(path, name, entry, start, size) for name, entry in entries.items()}
    except DecodeError:
        raise
    except (*BROKEN, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _header_of(path: Path, name: str, entry: dict[str, Any], start: int, size: int) -> ArrayHeader:
    shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise DecodeError(f"tensor {name!r} must have a NumPy dtype, got {entry['dtype']} in {path}; convert it")
    dtype = np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<")
    valid = all(type(number) is int and number >= 0 for number in (*shape, first, last))
    if not valid or last - first != math.prod(shape) * dtype.itemsize or start + last > size:
        raise DecodeError(
            f"tensor {name!r} must lie in its file with shape {shape}, got bytes {first} to {last} of {size - start} "
            f"in {path}; save it again"
        )
    return ArrayHeader(shape, is_fortran=False, dtype=dtype, offset=start + first)


def _unreadable(path: Path, error: Exception) -> DecodeError:
    return DecodeError(f"a table must be readable .safetensors of NumPy dtypes, got {path}: {error}; save it again")
