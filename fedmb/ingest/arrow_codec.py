"""Many rows in one record: an Arrow IPC stream of record batches, through pyarrow: the extra `fedmb[arrow]`.

Any Arrow library writes it (`pyarrow.ipc.new_stream`, `arrow::ipc::MakeStreamWriter`). The fields are the task's
columns, in any order; a column of shape (2, 3) is a list of 2 lists of 3 of fixed size. Refused are gaps (nulls), other
types than the schema's, dictionaries, and compressed buffers, since what they unpack to has no bound; let Kafka or the
file log compress. The format has no checksum: damage is found where it breaks the structure, a flipped bit in a number
is another number.

Source: https://arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format".
"""

from __future__ import annotations

import importlib.util
import struct
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fedmb.batch.minibatch import Column, Columns, Schema, check_columns
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import check_bounds, check_decoded, check_finite, check_schema, schema_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # without it a stream may have been cut between two batches
# Fields of the tables `Message` and `RecordBatch` in Arrow's Message.fbs, counted from 0.
_MESSAGE_HEADER = 2
_BATCH_COMPRESSION = 3


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; encode the record with ArrowCodec of the same schema")


class ArrowCodec:
    """Columns of many rows to an Arrow stream and back; pyarrow is imported with the first record.

    Args:
        schema: the columns.
        max_rows: most rows of one record.
        max_bytes: most bytes of one record.

    Raises:
        SettingsError: pyarrow is not installed, the schema has a dtype that NumPy lacks, or a bound is not positive.
    """

    name = "arrow"

    def __init__(self, schema: Schema, *, max_rows: int = 65_536, max_bytes: int = 64 << 20) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise SettingsError(
                "the codec arrow needs pyarrow, which is not installed; pip install 'fedmb[arrow]'", key="codecs"
            )
        check_schema(schema)
        check_bounds(max_rows=max_rows, max_bytes=max_bytes)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def encode(self, columns: Columns) -> bytes:
        """The value of one record, with one record batch; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: the rows or bytes are too many, there is no row, or a number is not finite.
        """
        import pyarrow as pa

        rows = check_columns(columns, self.schema)
        if not 1 <= rows <= self._max_rows:
            raise ValueError(f"an Arrow record must have 1 to {self._max_rows} rows, got {rows}; split the columns")
        check_finite(columns)
        arrays = {name: _arrow_array(columns[name]) for name in sorted(self.schema)}
        fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
        batch = pa.record_batch(list(arrays.values()), schema=pa.schema(fields))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        value: bytes = sink.getvalue().to_pybytes()
        if len(value) > self._max_bytes:
            raise ValueError(
                f"an Arrow record must be at most {self._max_bytes} bytes, got {len(value)}; pack fewer rows, or raise "
                "max_bytes"
            )
        return value

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record: views of `value` where it has one batch, but for bools.

        Raises:
            DecodeError: the bytes are not a whole stream of this schema within these bounds.
        """
        import pyarrow as pa

        if len(value) > self._max_bytes:
            _refuse(f"an Arrow record must be at most {self._max_bytes} bytes", len(value))
        if bytes(value[-len(_END) :]) != _END:
            _refuse("an Arrow record must end with its end-of-stream marker", bytes(value[-len(_END) :]))
        try:
            batches = list(self._batches(pa, value))
            parts = [{name: self._column(batch, name) for name in self.schema} for batch in batches]
        except DecodeError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError, struct.error) as error:
            raise DecodeError(
                f"an Arrow record must be an IPC stream, got {str(error)[:200]!r}; mend the producer of the record"
            ) from error
        columns = parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in self.schema}
        check_decoded(columns)
        return columns

    def _batches(self, pa: Any, value: bytes | memoryview) -> Iterator[Any]:  # of a package that may be absent
        """The record batches, each checked before a byte of it is interpreted."""
        source = pa.BufferReader(pa.py_buffer(value))
        messages = iter(pa.ipc.MessageReader.open_stream(source))
        first = next(messages, None)
        if first is None or first.type != "schema":
            _refuse("an Arrow record must begin with its schema", first and first.type)
        found = pa.ipc.read_schema(first)
        self._check_fields(pa, found)
        rows = 0
        for message in messages:
            if message.type != "record batch" or _is_compressed(message.metadata):
                _refuse("an Arrow record must hold plain record batches", f"compression, or a {message.type}")
            batch = pa.ipc.read_record_batch(message, found)
            rows += batch.num_rows
            if batch.num_rows < 1 or rows > self._max_rows:
                _refuse(f"an Arrow record must have 1 to {self._max_rows} rows, none of its batches empty", rows)
            batch.validate(full=True)
            yield batch
        if rows == 0 or source.tell() != len(value):
            _refuse("an Arrow record must be one stream with rows", f"{rows} rows, {len(value)} bytes")

    def _check_fields(self, pa: Any, found: Any) -> None:  # of a package that may be absent
        if len(found.names) != len(self.schema) or set(found.names) != self.schema.keys():
            _refuse(f"columns must be {sorted(self.schema)}", sorted(found.names[: len(self.schema) + 1]))
        for name, column in self.schema.items():
            wanted = _arrow_type(pa, column)
            if not _alike(found.field(name).type, wanted):
                _refuse(f"column {name!r} must be {wanted}", found.field(name).type)

    def _column(self, batch: Any, name: str) -> NDArray[Any]:  # of a package that may be absent
        array = batch.column(name)
        for _ in self.schema[name].shape:
            if array.null_count:
                _refuse("rows must have no gaps", f"nulls in column {name!r}")
            array = array.flatten()
        if array.null_count:
            _refuse("rows must have no gaps", f"nulls in column {name!r}")
        numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return numbers.reshape(batch.num_rows, *self.schema[name].shape)


def _arrow_type(pa: Any, column: Column) -> Any:  # of a package that may be absent
    found = pa.from_numpy_dtype(np.dtype(column.dtype))
    for size in reversed(column.shape):
        found = pa.list_(pa.field("item", found, nullable=False), size)
    return found


def _alike(found: Any, wanted: Any) -> bool:  # of a package that may be absent
    """Same numbers in lists of the same sizes, whatever the lists' items are called and may be."""
    while hasattr(wanted, "list_size"):
        if getattr(found, "list_size", None) != wanted.list_size:
            return False
        found, wanted = found.value_type, wanted.value_type
    return bool(found == wanted)


def _arrow_array(column: NDArray[Any]) -> Any:  # of a package that may be absent
    import pyarrow as pa

    array = pa.array(np.ascontiguousarray(column).reshape(-1))
    for size in reversed(column.shape[1:]):
        kind = pa.list_(pa.field("item", array.type, nullable=False), size)
        array = pa.FixedSizeListArray.from_arrays(array, type=kind)
    return array


def _is_compressed(metadata: Any) -> bool:  # a buffer of pyarrow's
    """Whether a record batch's message says that its buffers are; pyarrow has verified the message, and does not tell.

    Source: https://flatbuffers.dev/internals, "Tables": a table begins with the distance back to its table of fields.
    """
    data = memoryview(metadata)

    def field(table: int, index: int) -> int:
        """Where a field of a table lies; 0 when it has none."""
        fields = table - struct.unpack_from("<i", data, table)[0]
        at = 4 + 2 * index
        size = struct.unpack_from("<H", data, fields)[0]
        offset = struct.unpack_from("<H", data, fields + at)[0] if at < size else 0
        return table + offset if offset else 0

    root: int = struct.unpack_from("<I", data, 0)[0]
    header = field(root, _MESSAGE_HEADER)
    return field(header + struct.unpack_from("<I", data, header)[0], _BATCH_COMPRESSION) != 0
