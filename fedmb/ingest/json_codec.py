"""One row in one record, as a JSON object: for demonstrations and producers that know nothing else.

Some hundred times slower than packed records; strict, because a producer that writes 300 for a byte or NaN for a
number has a fault that a model must not learn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fedmb.batch.minibatch import Column, Columns, Schema, check_columns
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import check_finite, check_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KINDS: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_WORDS = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}
_DTYPES = {
    np.dtype(name).name: name for name in ("bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
}


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; mend the producer of the record")


def _refuse_constant(text: str) -> NoReturn:
    _refuse("numbers of a JSON row must be finite", text)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        _refuse("keys of a JSON row must differ", [key for key, _ in pairs])
    return result


def _flat(name: str, value: object, shape: tuple[int, ...]) -> list[Any]:
    """The numbers in nested lists of exactly `shape`, in C order."""
    items: list[Any] = [value]
    for size in shape:
        for item in items:
            if type(item) is not list or len(item) != size:
                _refuse(f"column {name!r} must be lists of shape {list(shape)}", item)
        items = [inner for item in items for inner in item]
    return items


def _column(name: str, value: object, wanted: Column) -> NDArray[Any]:
    dtype = np.dtype(wanted.dtype)
    items = _flat(name, value, wanted.shape)
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
    return array.reshape((1, *wanted.shape))


class JsonCodec:
    """One row as a JSON object with a key for each column.

    Args:
        schema: the columns.
        max_bytes: most bytes of one record.

    Raises:
        SettingsError: the schema has a dtype that JSON lacks, or the bound is not positive.
    """

    def __init__(self, schema: Schema, *, max_bytes: int = 1 << 20) -> None:
        check_schema(schema, _DTYPES)
        if max_bytes < 1:
            raise SettingsError(
                f"max_bytes must be 1 or more, got {max_bytes}; leave it at its default", key="max_bytes"
            )
        self._schema = dict(schema)
        self._max_bytes = max_bytes

    @property
    def name(self) -> str:
        """Word for the `fmb-codec` header."""
        return "json"

    @property
    def schema(self) -> Schema:
        """Columns that it encodes and decodes."""
        return self._schema

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: there is not exactly one row, a number is not finite, or the bytes are too many.
        """
        rows = check_columns(columns, self._schema)
        if rows != 1:
            raise ValueError(f"a JSON record must have 1 row, got {rows}; append one record for each row")
        check_finite(columns)
        row = {name: columns[name][0].tolist() for name in self._schema}
        value = json.dumps(row, separators=(",", ":"), allow_nan=False).encode()
        if len(value) > self._max_bytes:
            raise ValueError(
                f"a JSON record must be at most {self._max_bytes} bytes, got {len(value)}; raise max_bytes"
            )
        return value

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row.

        Raises:
            DecodeError: the bytes are not one object with exactly the schema's keys and numbers that fit.
        """
        if len(value) > self._max_bytes:
            _refuse(f"a JSON record must be at most {self._max_bytes} bytes", len(value))
        try:
            row = json.loads(bytes(value), object_pairs_hook=_unrepeated, parse_constant=_refuse_constant)
        except DecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise DecodeError(
                f"a JSON record must be one JSON object, got {bytes(value[:80])!r}; mend the producer of the record"
            ) from error
        if not isinstance(row, dict) or row.keys() != self._schema.keys():
            _refuse(f"keys of a JSON row must be {sorted(self._schema)}", sorted(row) if isinstance(row, dict) else row)
        return {name: _column(name, row[name], wanted) for name, wanted in self._schema.items()}
