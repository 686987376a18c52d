"""One row in one record, as a Protobuf message by the schema of whoever wrote it: the extra `fedmb[protobuf]`.

    ...      in a registry's frame only: which message of the file, as its number of indexes and the indexes, each a
             zigzag varint; a single 0 means the first message
    ...      the message

`fedmb/ingest/protobuf_schema.py` says which types a column may have. Protobuf has no checksum: damage is found where it
breaks the encoding, or leaves fields that the schema does not have; another flipped bit is another number. A proto3
field without `optional` that is absent is 0, by the format's own rule.

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop, "Wire format".
"""

from __future__ import annotations

import importlib.util
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from fedmb.batch.minibatch import Column, Columns, Schema, check_columns
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import check_bounds, check_decoded, check_finite, check_schema, schema_id
from fedmb.ingest.plain_rows import column_of, raw_column_of
from fedmb.ingest.protobuf_schema import ProtobufFile, ProtobufPlan, protobuf_text, size_of
from fedmb.ingest.writer_schema import WriterSchema, WriterSchemas, check_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

K = TypeVar("K")
V = TypeVar("V")

_MAX_PLANS = 256  # messages of one topic's producers
_MAX_DEPTH = 16  # of a message inside messages
_FIRST = (0,)
_MAX_VARINT_BYTES = 5


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; mend the producer of the record")


class ProtobufCodec:
    """A row's columns as the fields of a message, and back; protobuf is imported with the first record.

    Args:
        schema: the columns.
        writers: where the schemas of records come from.
        max_bytes: most bytes of one record.
        max_fields: most fields of a message.

    Raises:
        SettingsError: protobuf or grpcio-tools is not installed, the schema has a dtype that NumPy lacks or a name that
            Protobuf lacks, or a bound is not positive.
    """

    name = "protobuf"

    def __init__(
        self, schema: Schema, writers: WriterSchemas, *, max_bytes: int = 1 << 20, max_fields: int = 1024
    ) -> None:
        if importlib.util.find_spec("grpc_tools") is None:
            raise SettingsError(
                "the codec protobuf needs protobuf and grpcio-tools, which are not installed; "
                "pip install 'fedmb[protobuf]'",
                key="codecs",
            )
        check_schema(schema)
        check_names(schema)
        check_bounds(max_bytes=max_bytes, max_fields=max_fields)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._flat = {name: Column(column.dtype, (size_of(column),)) for name, column in schema.items()}
        self._writers = writers
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._files: dict[WriterSchema, ProtobufFile | DecodeError] = {}
        self._plans: dict[tuple[WriterSchema, tuple[int, ...]], ProtobufPlan | DecodeError] = {}

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes. The first may ask the registry.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: there is not exactly one row, a number is not finite, or the bytes are too many.
            SettingsError: there is no schema to write by, or it does not fit the columns.
            Unreachable, AccessDenied: the registry does not answer, or refuses us.
        """
        values = self.encode_rows(columns)
        if len(values) != 1:
            raise ValueError(f"a Protobuf record must have 1 row, got {len(values)}; append one record for each row")
        return values[0]

    def encode_rows(self, columns: Columns) -> list[bytes]:
        """The value of a record for each row.

        Raises:
            ShapeError, ValueError, SettingsError, Unreachable, AccessDenied: as for `encode`.
        """
        rows = check_columns(columns, self.schema)
        check_finite(columns)
        writer, frame = self._writers.for_writing("PROTOBUF", protobuf_text(self.schema))
        try:
            plan = self._plan(writer, _FIRST)
        except DecodeError as error:
            raise SettingsError(f"what we write by must fit the columns: {error}", key="schema_file") from error
        head = frame + b"\0" if self._writers.framed else b""
        values = []
        for row in range(rows):
            message = plan.message()
            try:
                for name, column in self.schema.items():
                    _assign(message, name, columns[name][row], column, raw=name in plan.raw)
                body = message.SerializeToString(deterministic=True)
            except Exception as error:  # a number that the field's type lacks, or a required field that is no column
                raise ValueError(
                    f"a row must be one that its message can hold, got: {error}; mend the schema"
                ) from error
            values.append(head + body)
        longest = max(map(len, values), default=0)
        if longest > self._max_bytes:
            raise ValueError(
                f"a Protobuf record must be at most {self._max_bytes} bytes, got {longest}; raise max_bytes"
            )
        return values

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row; may block while a registry is asked for its schema.

        Raises:
            DecodeError: the bytes are not one message of a known schema that has the columns.
            Unreachable, AccessDenied: the schema could not be asked for; the record is not at fault.
        """
        return self.decode_many([value])

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of one or more records, a row for each; may block while a registry is asked for schemas.

        Raises:
            DecodeError: one of them is not a message of a known schema that has the columns.
            Unreachable, AccessDenied: a schema could not be asked for; the records are not at fault.
        """
        longest = max(map(len, values), default=0)
        if longest > self._max_bytes:
            _refuse(f"a Protobuf record must be at most {self._max_bytes} bytes", longest)
        opened = [self._opened(value) for value in values]
        parts = []
        for (writer, path), alike in groupby(opened, key=lambda one: one[:2]):
            plan = self._plan(writer, path)
            parts.append(self._columns(plan, [_parsed(plan, body) for _, _, body in alike]))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.schema}

    def _opened(self, value: bytes | memoryview) -> tuple[WriterSchema, tuple[int, ...], memoryview]:
        writer, body = self._writers.opened(value)
        if not self._writers.framed:
            return writer, _FIRST, body
        depth, body = _varint(body)
        if not 0 <= depth <= _MAX_DEPTH:
            _refuse(f"a Protobuf record must name its message by at most {_MAX_DEPTH} indexes", depth)
        path = []
        for _ in range(depth):
            index, body = _varint(body)
            path.append(index)
        return writer, tuple(path) or _FIRST, body

    def _columns(self, plan: ProtobufPlan, messages: list[Any]) -> Columns:
        columns = {}
        for name, wanted in self.schema.items():
            found = [getattr(message, name) for message in messages]
            if name in plan.raw:
                columns[name] = raw_column_of(name, found, wanted)
            elif wanted.shape:
                lists = [list(numbers) for numbers in found]
                columns[name] = column_of(name, lists, self._flat[name]).reshape(len(found), *wanted.shape)
            else:
                columns[name] = column_of(name, found, wanted)
        check_decoded(columns)
        return columns

    def _plan(self, writer: WriterSchema, path: tuple[int, ...]) -> ProtobufPlan:
        """How to read a writer's messages, found out once.

        Raises:
            DecodeError: they cannot be read.
        """
        file = self._files.get(writer)
        if file is None:
            file = _remembered(self._files, writer, lambda: ProtobufFile(writer))
        if isinstance(file, DecodeError):
            raise DecodeError(str(file))  # a new one each time: a traceback would keep the first record alive
        compiled, key = file, (writer, path)
        plan = self._plans.get(key)
        if plan is None:
            plan = _remembered(self._plans, key, lambda: compiled.plan(path, self.schema, self._max_fields))
        if isinstance(plan, DecodeError):
            raise DecodeError(str(plan))
        return plan


def _remembered(known: dict[K, V | DecodeError], key: K, find: Callable[[], V]) -> V | DecodeError:
    """What `find` gives or why it gives nothing; also under its key."""
    if len(known) >= _MAX_PLANS:  # a hostile producer may vary what it names without end
        known.clear()
    try:
        known[key] = find()
    except DecodeError as error:
        known[key] = error
    return known[key]


def _assign(message: Any, name: str, row: Any, column: Column, *, raw: bool) -> None:  # of a generated class
    if raw:
        setattr(message, name, row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes())
    elif column.shape:
        getattr(message, name).extend(row.reshape(-1).tolist())
    else:
        setattr(message, name, row.item())


def _parsed(plan: ProtobufPlan, body: memoryview) -> Any:  # of a generated class
    from google.protobuf.message import DecodeError as BadMessage
    from google.protobuf.unknown_fields import UnknownFieldSet

    try:
        message = plan.message.FromString(bytes(body))
    except (BadMessage, ValueError, RuntimeError) as error:  # the implementations differ in what they raise
        raise DecodeError(
            f"a Protobuf record must be a message of its schema, got {str(error)[:200]!r}; mend the producer"
        ) from error
    if len(UnknownFieldSet(message)):
        _refuse("a Protobuf record must have its schema's fields only", "others")
    for name in plan.optional:
        if not message.HasField(name):
            _refuse(f"a Protobuf record must have the field {name!r}", "none")
    return message


def _varint(data: memoryview) -> tuple[int, memoryview]:
    """A zigzag varint, and what comes behind it."""
    number = 0
    for at, byte in enumerate(data[:_MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:  # noqa: PLR2004  # the bit that says more come
            return (number >> 1) ^ -(number & 1), data[at + 1 :]
    _refuse("a Protobuf record must name its message by varints", bytes(data[:_MAX_VARINT_BYTES]))
