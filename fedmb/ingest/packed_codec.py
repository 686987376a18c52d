"""Many rows in one record: a safetensors byte string behind eight bytes of magic and checksum.

    4 bytes  magic
    u32      CRC-32C of everything behind it, little-endian
    ...      safetensors: u64 header bytes, JSON header, the columns one after another, little-endian

`value[8:]` loads with any safetensors library. The reader here needs none: it bounds the header, checks it against the
schema and remembers what it found, since a producer's records all have the same header.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, NamedTuple, NoReturn

import numpy as np
from crc32c import crc32c

from fedmb.batch.minibatch import Columns, Schema, check_columns
from fedmb.errors import DecodeError
from fedmb.ingest.codec import DTYPES, check_bounds, check_decoded, check_finite, check_schema, schema_id, squares_tell

MAGIC = b"fmP1"
PREFIX_BYTES = 8
MAX_PLANS = 64  # headers remembered; producers of one topic differ in rows per record at most

_LENGTH_BYTES = 8
_DATA_FROM = PREFIX_BYTES + _LENGTH_BYTES
_HEAD = struct.Struct("<4sIQ")  # magic, checksum, bytes of the JSON header
_WORDS = dict(
    zip(DTYPES, ("BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64"), strict=True)
)


class _Slot(NamedTuple):
    """Where a column lies behind the header."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    num_items: int
    start: int


class _Plan(NamedTuple):
    """What a header comes to."""

    data_bytes: int
    slots: tuple[_Slot, ...]
    squared: tuple[str, ...]
    """Columns whose sum of squares tells that they are finite."""
    others: tuple[str, ...]
    """Further columns whose values are looked at."""


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; encode the record with PackedCodec of the same schema")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        _refuse("keys of a packed header must differ", [key for key, _ in pairs])
    return result


class PackedCodec:
    """Columns of many rows to one record and back; decoding copies nothing.

    Args:
        schema: the columns.
        max_rows: most rows of one record.
        max_bytes: most bytes of one record.
        max_header_bytes: most bytes of its JSON header.

    Raises:
        SettingsError: the schema has a dtype that safetensors or NumPy lack, or a bound is not positive.
    """

    name = "packed"

    def __init__(
        self,
        schema: Schema,
        *,
        max_rows: int = 65_536,
        max_bytes: int = 64 << 20,
        max_header_bytes: int = 16 << 10,
    ) -> None:
        check_schema(schema)
        check_bounds(max_rows=max_rows, max_bytes=max_bytes, max_header_bytes=max_header_bytes)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._dtypes = {name: np.dtype(column.dtype).newbyteorder("<") for name, column in schema.items()}
        # Widest numbers first, so that every column starts at a multiple of its own width.
        self._order = sorted(schema, key=lambda name: (-self._dtypes[name].itemsize, name))
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_header_bytes = max_header_bytes
        self._plans: dict[bytes, _Plan] = {}

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: the rows or bytes are too many, there is no row, or a number is not finite.
        """
        rows = check_columns(columns, self.schema)
        if not 1 <= rows <= self._max_rows:
            raise ValueError(f"a packed record must have 1 to {self._max_rows} rows, got {rows}; split the columns")
        check_finite(columns)
        description: dict[str, object] = {}
        arrays: list[bytes] = []
        start = 0
        for name in self._order:
            array = columns[name]
            stop = start + array.nbytes
            description[name] = {
                "dtype": _WORDS[self.schema[name].dtype],
                "shape": list(array.shape),
                "data_offsets": [start, stop],
            }
            arrays.append(array.astype(self._dtypes[name], copy=False).tobytes())
            start = stop
        text = json.dumps(description, separators=(",", ":")).encode()
        header = text + b" " * (-len(text) % _LENGTH_BYTES)
        value = b"".join((len(header).to_bytes(_LENGTH_BYTES, "little"), header, *arrays))
        if len(header) > self._max_header_bytes or PREFIX_BYTES + len(value) > self._max_bytes:
            raise ValueError(
                f"a packed record must be at most {self._max_bytes} bytes with a header of {self._max_header_bytes}, "
                f"got {PREFIX_BYTES + len(value)} with {len(header)}; pack fewer rows, or raise max_bytes"
            )
        return b"".join((MAGIC, crc32c(value).to_bytes(4, "little"), value))

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, as read-only views of `value`.

        Raises:
            DecodeError: the bytes are not what `encode` writes for this schema and these bounds.
        """
        view = memoryview(value)
        if not view.readonly:
            view = view.toreadonly()
        size = len(view)
        if not _DATA_FROM <= size <= self._max_bytes:
            _refuse(f"a packed record must have {_DATA_FROM} to {self._max_bytes} bytes", size)
        magic, checksum, header_bytes = _HEAD.unpack_from(view)
        if magic != MAGIC:
            _refuse(f"a packed record must start with {MAGIC!r}", magic)
        if (found := crc32c(view[PREFIX_BYTES:])) != checksum:
            _refuse(f"CRC-32C of a packed record must be {checksum:#010x}", f"{found:#010x}")
        data_from = _DATA_FROM + header_bytes
        if header_bytes > self._max_header_bytes or data_from > size:
            _refuse(f"a packed header must be at most {self._max_header_bytes} bytes and inside", header_bytes)
        header = view[_DATA_FROM:data_from].tobytes()
        plan = self._plans.get(header) or self._planned(header)
        if size - data_from != plan.data_bytes:
            _refuse(f"columns must fill {plan.data_bytes} bytes", size - data_from)
        columns = {
            name: np.ndarray(shape, dtype, view, data_from + start) for name, dtype, shape, _, start in plan.slots
        }
        others = plan.others
        for name in plan.squared:
            array = columns[name]
            if not math.isfinite(np.vdot(array, array)):  # it may have overflowed
                others = (*others, name)
        if others:
            check_decoded({name: columns[name] for name in others})
        return columns

    def _planned(self, header: bytes) -> _Plan:
        """Check a header against the schema, once for all records that have it.

        Raises:
            DecodeError: it describes other columns, or not one after another.
        """
        try:
            description = json.loads(header, object_pairs_hook=_unrepeated)
        except (ValueError, RecursionError) as error:
            raise DecodeError(
                f"a packed header must be JSON, got {header[:80]!r}; encode the record with PackedCodec"
            ) from error
        if not isinstance(description, dict):
            _refuse("a packed header must be a JSON object", description)
        description.pop("__metadata__", None)  # free text by the format; nothing here reads it
        if description.keys() != self.schema.keys():
            _refuse(f"columns must be {sorted(self.schema)}", sorted(description))
        first = description[self._order[0]]
        rows = self._rows(first)
        slots = sorted((self._slot(name, entry, rows) for name, entry in description.items()), key=lambda s: s.start)
        end = 0
        for slot in slots:
            if slot.start != end:
                _refuse(f"column {slot.name!r} must start at byte {end} of the data", slot.start)
            end += slot.num_items * slot.dtype.itemsize
        if len(self._plans) >= MAX_PLANS:  # a hostile producer may vary its header without end
            self._plans.clear()
        squared = tuple(slot.name for slot in slots if squares_tell(slot.dtype, slot.num_items))
        others = tuple(slot.name for slot in slots if slot.dtype.kind in "fb" and slot.name not in squared)
        plan = self._plans[header] = _Plan(end, tuple(slots), squared, others)
        return plan

    def _rows(self, entry: object) -> int:
        shape = entry.get("shape") if isinstance(entry, dict) else None
        rows = shape[0] if isinstance(shape, list) and shape else None
        if type(rows) is not int or not 1 <= rows <= self._max_rows:
            _refuse(f"a packed record must have 1 to {self._max_rows} rows", entry)
        return rows

    def _slot(self, name: str, entry: object, rows: int) -> _Slot:
        wanted, dtype = self.schema[name], self._dtypes[name]
        shape = (rows, *wanted.shape)
        count = math.prod(shape)
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            _refuse(f"column {name!r} must have dtype, shape and data_offsets", entry)
        # Compared by type too, because True == 1 and 2.0 == 2 in Python.
        if entry["dtype"] != _WORDS[wanted.dtype] or repr(entry["shape"]) != repr(list(shape)):
            _refuse(f"column {name!r} must be {_WORDS[wanted.dtype]} of shape {list(shape)}", entry)
        offsets = entry["data_offsets"]
        is_pair = isinstance(offsets, list) and len(offsets) == 2 and all(type(number) is int for number in offsets)  # noqa: PLR2004
        if not is_pair or offsets[0] < 0 or offsets[1] - offsets[0] != count * dtype.itemsize:
            _refuse(f"column {name!r} must take {count * dtype.itemsize} bytes", offsets)
        return _Slot(name, dtype, shape, count, offsets[0])
