"""One row of Python values and arrays -> the bytes of its struct.

NumPy takes about a microsecond for five columns assigned one by one; one call of `struct` over the arrays' bytes takes
a quarter of it, so what costs is looking whether shapes and dtypes are right.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column

CODES = {"bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H"} | {
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}  # what struct and NumPy both know; complex numbers take the slow way


class RowCodec:
    """Packs rows of one schema.

    Args:
        schema: columns in the order of a row's values.
        row_dtype: the struct, whose fields leave no gap but at the end.
    """

    def __init__(self, schema: dict[str, Column], row_dtype: np.dtype[np.void]) -> None:
        self._schema = schema
        self._row_dtype = row_dtype
        self._num_columns = len(schema)
        names = list(schema)
        form, fields, used = "=", [], 0
        for name in row_dtype.names or ():
            column = schema[name]
            dtype = np.dtype(column.dtype)
            size = np.dtype((column.dtype, column.shape)).itemsize
            form += CODES.get(dtype.name, f"{size}s") if not column.shape else f"{size}s"
            is_plain = not column.shape and dtype.name in CODES
            fields.append((names.index(name), None if is_plain else column.shape, dtype))
            used += size
        self._fields = fields
        self._pack = struct.Struct(f"{form}{row_dtype.itemsize - used}x").pack

    def packed(self, row: Sequence[Any]) -> bytes:
        """The row's bytes.

        Raises:
            ShapeError: a value is missing, of another shape, or of a dtype that cannot be cast.
        """
        if len(row) == self._num_columns:
            try:
                return self._pack(
                    *[
                        row[index]
                        if shape is None
                        else value.tobytes()
                        if (value := row[index]).shape == shape and value.dtype is dtype
                        else None  # which struct refuses
                        for index, shape, dtype in self._fields
                    ]
                )
            except (struct.error, AttributeError, TypeError, ValueError, OverflowError):
                pass  # lists, other dtypes, wrong shapes: NumPy looks closer
        one = np.zeros(1, self._row_dtype)
        for name, value in zip(self._schema, self.checked(row), strict=True):
            one[name] = value
        return one.tobytes()

    def checked(self, row: Sequence[Any]) -> list[NDArray[Any]]:
        """The values as arrays of the schema's shapes, and of dtypes that can be stored.

        Raises:
            ShapeError: as `packed`.
        """
        if len(row) != self._num_columns:
            raise ShapeError(f"a row must have the values of {list(self._schema)}, got {len(row)} values")
        arrays = []
        for (name, column), value in zip(self._schema.items(), row, strict=True):
            array = np.asarray(value)
            if array.shape != column.shape or not _can_store(array, np.dtype(column.dtype)):
                raise ShapeError(
                    f"a row's {name!r} must hold {column.dtype} of shape {column.shape}, got {array.dtype.name} of "
                    f"shape {array.shape}; convert it"
                )
            arrays.append(array)
        return arrays


def _can_store(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the values keep their kind: integers may become floats, but not floats integers."""
    if dtype.kind == "b":
        return array.dtype.kind in "biuf"  # the truth of a number, as Python has it
    if array.dtype.kind in "iu" and dtype.kind in "iu":  # Python's integers are int64: look whether they fit
        limits = np.iinfo(dtype)
        return not array.size or (limits.min <= int(array.min()) and int(array.max()) <= limits.max)
    return np.can_cast(array.dtype, dtype, "same_kind")
