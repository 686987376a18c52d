"""Named arrays as safetensors bytes and back: bfloat16 included, with a checksum, and read without a copy.

    u64 header bytes | JSON header | arrays one after another, little-endian, the widest dtypes first

The bytes are a plain safetensors file that any of its libraries reads. Two things differ from its NumPy half: it cannot
read bfloat16, and it copies. The checksum is CRC-32C of the arrays, in the header's metadata: it tells a torn or rotten
file, not a forged one.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from crc32c import crc32c

from fedmb.arrays.flat import DTYPES, MAX_ARRAYS, MAX_DIMENSIONS, kind_of
from fedmb.arrays.joined import joined
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CHECKSUM = "crc32c"
_WORDS = {
    "bool": "BOOL",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    **{f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_KINDS = {word: kind for kind, word in _WORDS.items()}
_LENGTH = 8  # bytes of the header's length, and what the header is filled up to
_MAX_HEADER = 100 << 20  # bytes; the format's own bound
_KEYS = {"dtype", "shape", "data_offsets"}


def to_bytes(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None, *, checksum: bool = False
) -> bytes:
    """`arrays` as a safetensors file; equal arrays and metadata give equal bytes.

    Args:
        arrays: of the dtypes in `fedmb.arrays.flat.DTYPES`.
        metadata: free text by key.
        checksum: whether the file carries one, which `from_bytes` then checks.

    Raises:
        ShapeError: an array is of another dtype.
    """
    kinds = {name: kind_of(array.dtype) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-DTYPES[kinds[name]].itemsize, name))
    parts = [_raw(arrays[name], DTYPES[kinds[name]]) for name in order]
    about = dict(metadata or {})
    if checksum:
        found = 0
        for part in parts:
            found = crc32c(part, found)
        about[CHECKSUM] = f"{found:08x}"
    header: dict[str, Any] = {"__metadata__": about} if about else {}
    start = 0
    for name, part in zip(order, parts, strict=True):
        stop = start + part.nbytes
        header[name] = {"dtype": _WORDS[kinds[name]], "shape": arrays[name].shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return joined((len(text).to_bytes(_LENGTH, "little"), text, *parts))


def _raw(array: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def from_bytes(data: bytes | memoryview) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays, as read-only views of `data`, and metadata of a safetensors file.

    Raises:
        ShapeError: the bytes are no such file, or their checksum differs.
    """
    view = memoryview(data).toreadonly()
    length = int.from_bytes(view[:_LENGTH], "little")
    start = _LENGTH + length
    if len(view) < _LENGTH or not 0 < length <= _MAX_HEADER or start > len(view):
        _refuse("a safetensors file must begin with its header", f"{len(view)} bytes, header of {length}")
    header = _parsed(bytes(view[_LENGTH:start]))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or len(header) > MAX_ARRAYS:
        _refuse(f"a safetensors header must name at most {MAX_ARRAYS} arrays", len(header))
    slots = sorted((_slot(name, entry) for name, entry in header.items()), key=lambda slot: (slot[2], slot[3]))
    end, arrays = 0, {}
    for name, kind, first, stop, shape in slots:
        if first != end or start + stop > len(view):
            _refuse(f"array {name!r} must start at byte {end} of the data and end inside it", (first, stop))
        arrays[name] = np.ndarray(shape, DTYPES[kind], view, start + first)
        end = stop
    if start + end != len(view):
        _refuse(f"arrays must fill {len(view) - start} bytes", end)
    if CHECKSUM in metadata and (found := f"{crc32c(view[start:]):08x}") != metadata[CHECKSUM]:
        _refuse(f"CRC-32C of the arrays must be {metadata[CHECKSUM]}", found)
    return arrays, metadata


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"a safetensors header must be JSON, got {text[:80]!r}; the file is damaged") from error
    if not isinstance(header, dict):
        _refuse("a safetensors header must be a JSON object", text[:80])
    return header


def _slot(name: str, entry: object) -> tuple[str, str, int, int, tuple[int, ...]]:
    """Name, dtype name, first byte, last byte and shape of one array."""
    if not isinstance(entry, dict) or entry.keys() != _KEYS or not isinstance(entry["dtype"], str):
        _refuse(f"array {name!r} must have dtype, shape and data_offsets", repr(entry)[:80])
    kind, shape, offsets = _KINDS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if kind is None:
        _refuse(f"array {name!r} must be of one of {sorted(_KINDS)}", entry["dtype"][:80])
    if not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)):
        _refuse(f"array {name!r} must have sizes from 0", repr(shape)[:80])
    size = math.prod(shape) * DTYPES[kind].itemsize
    is_pair = isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)  # noqa: PLR2004
    if not is_pair or offsets[0] < 0 or offsets[1] - offsets[0] != size:
        _refuse(f"array {name!r} must take {size} bytes", repr(offsets)[:80])
    return name, kind, offsets[0], offsets[1], tuple(shape)


def _refuse(rule: str, got: object) -> NoReturn:
    raise ShapeError(f"{rule}, got {got}; the file is damaged, use another copy")
