"""Columns from rows of plain Python numbers and lists, as JSON, Avro and Protobuf give them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column

_KINDS: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_WORDS = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; mend the producer of the record")


def _flat(name: str, rows: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The numbers in the nested lists of exactly `shape` that each of `rows` is, in C order."""
    items = rows
    for size in shape:
        for item in items:
            if type(item) is not list or len(item) != size:
                _refuse(f"column {name!r} must be lists of shape {list(shape)}", item)
        items = [inner for item in items for inner in item]
    return items


def column_of(name: str, rows: list[Any], wanted: Column) -> NDArray[Any]:
    """One column from what each row has for it: a number, or numbers in nested lists of exactly its shape.

    Whole numbers are accepted where floats are wanted, never the other way round; nothing is clipped.

    Raises:
        DecodeError: something else is there, a number does not fit the dtype, or is not finite.
    """
    dtype = np.dtype(wanted.dtype)
    items = _flat(name, rows, wanted.shape)
    if not set(map(type, items)) <= _KINDS[dtype.kind]:
        found = next(item for item in items if type(item) not in _KINDS[dtype.kind])
        _refuse(f"column {name!r} must hold {_WORDS[dtype.kind]}", repr(found))
    if dtype.kind in "iu":
        limits, low, high = np.iinfo(dtype), min(items), max(items)
        if low < limits.min or high > limits.max:
            rule = f"column {name!r} must hold whole numbers from {limits.min} to {limits.max}"
            _refuse(rule, low if low < limits.min else high)
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
            array = np.array(items, np.float64).astype(dtype) if dtype.kind == "f" else np.array(items, dtype)
    except OverflowError as error:
        raise DecodeError(f"column {name!r} must fit {dtype.name}; mend the producer of the record") from error
    if dtype.kind == "f" and not np.isfinite(array).all():
        _refuse(f"column {name!r} must hold finite {dtype.name} numbers", items)
    return array.reshape((len(rows), *wanted.shape))


def raw_column_of(name: str, rows: list[Any], wanted: Column) -> NDArray[Any]:
    """One column from the bytes that each row has for it: its numbers in C order, little-endian.

    Raises:
        DecodeError: something else is there, or other than so many bytes; whether they are finite is not looked at.
    """
    dtype = np.dtype(wanted.dtype).newbyteorder("<")
    size = dtype.itemsize * math.prod(wanted.shape)
    for row in rows:
        if type(row) is not bytes or len(row) != size:
            found = f"{len(row)} bytes" if type(row) is bytes else row
            _refuse(f"column {name!r} must be {size} bytes", found)
    return np.frombuffer(b"".join(rows), dtype).reshape(len(rows), *wanted.shape)
