"""One row in one record, in a fixed layout: what a device that knows only its own struct can write.

    ...      the columns in the order of their names' code points, each in C order, little-endian, nothing between them
    u32      CRC-32C of these bytes, little-endian (left out with `checksum=False`)

The bytes do not say what they are: names, dtypes and shapes are agreed beforehand (the `fmb-schema` header names
them). What is found out:

- with the checksum, any record that is not as its producer wrote it; two damaged records decoded together may hide
  each other once in 2**32 times, as a damaged record alone does;
- without it, only a wrong length, a float that is not finite and a bool that is neither 0 nor 1. A flipped bit in a
  number is another number.

Many records cost little more than one copy of their bytes: they are joined with a separator that no producer knows,
and checked together, since a CRC of records that all carry their own CRC is the same whatever they hold.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from crc32c import crc32c

from fedmb.batch.minibatch import Columns, Schema, check_columns
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import check_bounds, check_decoded, check_finite, check_schema, schema_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CRC_BYTES = 4
_SEPARATOR = np.dtype(np.uint64)
_MAX_COUNTS = 256  # numbers of records whose checksum is remembered


class _Slot(NamedTuple):
    """Where a column lies in a record."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Bytes from one number to the next along each axis of `shape`."""
    start: int
    stop: int


def _slots(schema: Schema) -> list[_Slot]:
    slots, start = [], 0
    for name, column in sorted(schema.items()):
        dtype = np.dtype(column.dtype).newbyteorder("<")
        stop = start + dtype.itemsize * math.prod(column.shape)
        strides = np.empty(column.shape, dtype).strides
        slots.append(_Slot(name, dtype, column.shape, strides, start, stop))
        start = stop
    return slots


class SampleCodec:
    """A row's columns one after another, and back; the module's head draws the layout.

    Args:
        schema: the columns.
        checksum: a record ends with the CRC-32C of its columns.
        max_bytes: most bytes of one record.

    Raises:
        SettingsError: the schema has a dtype that NumPy lacks, or its rows take more than `max_bytes`.
    """

    name = "sample"

    def __init__(self, schema: Schema, *, checksum: bool = True, max_bytes: int = 1 << 20) -> None:
        check_schema(schema)
        check_bounds(max_bytes=max_bytes)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._slots = _slots(schema)
        self._row_bytes = self._slots[-1].stop
        self._checksum = checksum
        self.record_bytes = self._row_bytes + _CRC_BYTES * checksum
        """Bytes of every record."""
        if self.record_bytes > max_bytes:
            raise SettingsError(
                f"a sample record must be at most {max_bytes} bytes, got {self.record_bytes} by the schema; "
                "raise max_bytes, or pack rows with another codec",
                key="max_bytes",
            )
        # Unknown to producers and different in every process: records of wrong lengths cannot be made to fit it.
        self._separator = os.urandom(_SEPARATOR.itemsize)
        self._stride = self.record_bytes + _SEPARATOR.itemsize
        self._sealed = self._seal(bytes(self._row_bytes))
        self._checksums: dict[int, int] = {}

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: there is not exactly one row, or a number is not finite.
        """
        values = self.encode_rows(columns)
        if len(values) != 1:
            raise ValueError(f"a sample record must have 1 row, got {len(values)}; append one record for each row")
        return values[0]

    def encode_rows(self, columns: Columns) -> list[bytes]:
        """The value of a record for each row.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: a number is not finite.
        """
        rows = check_columns(columns, self.schema)
        check_finite(columns)
        block = np.empty((rows, self._row_bytes), np.uint8)
        for name, dtype, _, _, start, stop in self._slots:
            column = np.ascontiguousarray(columns[name], dtype)
            block[:, start:stop] = column.view(np.uint8).reshape(rows, stop - start)
        data, size = block.tobytes(), self._row_bytes
        return [self._seal(data[at : at + size]) for at in range(0, rows * size, size)]

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row.

        Raises:
            DecodeError: the record has another length, fails its checksum, or a number is not finite.
        """
        if len(value) != self.record_bytes:
            other = self._row_bytes + _CRC_BYTES * (not self._checksum)
            way_out = f"its producer writes {'no' if self._checksum else 'a'} checksum: choose checksum alike"
            _refuse(
                f"a sample record must have {self.record_bytes} bytes",
                len(value),
                way_out if len(value) == other else "",
            )
        if self._checksum:
            found = crc32c(memoryview(value)[: self._row_bytes])
            written = int.from_bytes(value[self._row_bytes :], "little")
            if found != written:
                _refuse(f"CRC-32C of a sample record must be {written:#010x}", f"{found:#010x}")
        return self._columns(value, 1)

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of one or more records, a row for each, as contiguous arrays of their own.

        Raises:
            DecodeError: one of them has another length, fails its checksum, or holds a number that is not finite.
        """
        count = len(values)
        joined = self._separator.join(values)
        stride = self._stride
        good = count > 0 and len(joined) == count * stride - len(self._separator)
        if good and self._checksum:
            good = crc32c(joined) == (self._checksums.get(count) or self._checksum_of(count))
        elif good:
            first, num_between = (self.record_bytes, count - 1) if count > 1 else (0, 0)
            between: NDArray[np.uint64] = np.ndarray((num_between,), _SEPARATOR, joined, first, (stride,))
            good = bool((between == np.frombuffer(self._separator, _SEPARATOR)).all())
        if not good:
            _refuse(
                f"each of {count} sample records must have {self.record_bytes} bytes with a right checksum", "another"
            )
        return self._columns(joined, count)

    def _columns(self, data: bytes | memoryview, count: int) -> Columns:
        """Copies of the columns of `count` records in `data`, with separators between."""
        stride = self._stride
        columns = {}
        for name, dtype, shape, strides, start, _ in self._slots:
            found: NDArray[Any] = np.ndarray((count, *shape), dtype, data, start, (stride, *strides))
            columns[name] = found.copy()
        check_decoded(columns)
        return columns

    def _seal(self, row: bytes) -> bytes:
        return row + crc32c(row).to_bytes(_CRC_BYTES, "little") if self._checksum else row

    def _checksum_of(self, count: int) -> int:
        """CRC-32C of any `count` records with right checksums, joined.

        A message with its own CRC behind it leaves the register in a state that does not depend on the message.

        Source: Koopman, "32-bit cyclic redundancy codes for Internet applications", DSN 2002, section 2.
        """
        if len(self._checksums) >= _MAX_COUNTS:
            self._checksums.clear()
        checksum = self._checksums[count] = crc32c(self._separator.join([self._sealed] * count))
        return checksum


def _refuse(rule: str, found: object, way_out: str = "") -> NoReturn:
    way_out = way_out or "encode the record with SampleCodec of the same schema"
    raise DecodeError(f"{rule}, got {str(found)[:200]}; {way_out}")
