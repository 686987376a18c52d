"""One row in one record, in Avro, by the schema of whoever wrote it: through fastavro, the extra `fedmb[avro]`.

`fedmb/ingest/avro_schema.py` says which types a column may have, `fedmb/ingest/writer_schema.py` how a record names its
schema. Avro has no checksum: damage is found where it breaks the encoding or a number's range, another flipped bit is
another number.
"""

from __future__ import annotations

import importlib.util
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Columns, Schema, check_columns
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.avro_schema import AvroPlan, avro_plan, avro_text
from fedmb.ingest.codec import check_bounds, check_decoded, check_finite, check_schema, schema_id
from fedmb.ingest.plain_rows import column_of, raw_column_of
from fedmb.ingest.writer_schema import WriterSchema, WriterSchemas, check_names

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_PLANS = 256  # schemas of one topic's producers


class AvroCodec:
    """A row's columns as the fields of an Avro record, and back; fastavro is imported with the first record.

    Args:
        schema: the columns.
        writers: where the schemas of records come from.
        max_bytes: most bytes of one record.
        max_fields: most fields of a writer's schema.

    Raises:
        SettingsError: fastavro is not installed, the schema has a dtype that NumPy lacks or a name that Avro lacks,
            or a bound is not positive.
    """

    name = "avro"

    def __init__(
        self, schema: Schema, writers: WriterSchemas, *, max_bytes: int = 1 << 20, max_fields: int = 1024
    ) -> None:
        if importlib.util.find_spec("fastavro") is None:
            raise SettingsError(
                "the codec avro needs fastavro, which is not installed; pip install 'fedmb[avro]'", key="codecs"
            )
        check_schema(schema)
        check_names(schema)
        check_bounds(max_bytes=max_bytes, max_fields=max_fields)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._writers = writers
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._plans: dict[WriterSchema, AvroPlan | DecodeError] = {}

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
            raise ValueError(f"an Avro record must have 1 row, got {len(values)}; append one record for each row")
        return values[0]

    def encode_rows(self, columns: Columns) -> list[bytes]:
        """The value of a record for each row.

        Raises:
            ShapeError, ValueError, SettingsError, Unreachable, AccessDenied: as for `encode`.
        """
        import fastavro

        rows = check_columns(columns, self.schema)
        check_finite(columns)
        writer, frame = self._writers.for_writing("AVRO", avro_text(self.schema))
        try:
            plan = self._plan(writer)
        except DecodeError as error:
            raise SettingsError(
                f"a schema to write by must fit the columns, got: {error}", key="schema_file"
            ) from error
        lists = {
            name: [row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes() for row in columns[name]]
            if name in plan.raw
            else columns[name].tolist()
            for name in self.schema
        }
        values = []
        for row in range(rows):
            file = BytesIO()
            file.write(frame)
            try:
                fastavro.schemaless_writer(file, plan.schema, {name: lists[name][row] for name in lists})
            except Exception as error:  # fastavro's writer raises whatever its parts do
                raise ValueError(
                    f"a row must be one that its Avro schema can hold, got {type(error).__name__}: {error}; mend the "
                    "schema"
                ) from error
            values.append(file.getvalue())
        longest = max(map(len, values), default=0)
        if longest > self._max_bytes:
            raise ValueError(f"an Avro record must be at most {self._max_bytes} bytes, got {longest}; raise max_bytes")
        return values

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row; may block while a registry is asked for its schema.

        Raises:
            DecodeError: the bytes are not one record of a known schema that has the columns.
            Unreachable, AccessDenied: the schema could not be asked for; the record is not at fault.
        """
        return self.decode_many([value])

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of one or more records, a row for each; may block while a registry is asked for schemas.

        Raises:
            DecodeError: one of them is not a record of a known schema that has the columns.
            Unreachable, AccessDenied: a schema could not be asked for; the records are not at fault.
        """
        longest = max(map(len, values), default=0)
        if longest > self._max_bytes:
            raise DecodeError(f"an Avro record must be at most {self._max_bytes} bytes, got {longest}; raise max_bytes")
        opened = [self._writers.opened(value) for value in values]
        parts = []
        for writer, alike in groupby(opened, key=lambda pair: pair[0]):
            plan = self._plan(writer)
            parts.append(self._columns(plan, [_datum(plan, body) for _, body in alike]))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.schema}

    def _columns(self, plan: AvroPlan, rows: list[dict[str, Any]]) -> Columns:
        columns = {
            name: (raw_column_of if name in plan.raw else column_of)(name, [row[name] for row in rows], wanted)
            for name, wanted in self.schema.items()
        }
        check_decoded(columns)
        return columns

    def _plan(self, writer: WriterSchema) -> AvroPlan:
        """How to read a writer's records, found out once.

        Raises:
            DecodeError: they cannot be read.
        """
        plan = self._plans.get(writer)
        if plan is None:
            try:
                plan = avro_plan(writer, self.schema, self._max_fields)
            except DecodeError as error:
                plan = error
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[writer] = plan
        if isinstance(plan, DecodeError):
            raise DecodeError(str(plan))  # a new one each time: a traceback would keep the first record alive
        return plan


def _datum(plan: AvroPlan, body: memoryview) -> dict[str, Any]:
    import fastavro

    file = BytesIO(body)
    try:
        row: Any = fastavro.schemaless_reader(file, plan.schema, None)
    except Exception as error:  # fastavro's reader raises whatever its parts do, on hostile bytes
        raise DecodeError(
            f"an Avro record must follow its schema, got {type(error).__name__}: {str(error)[:200]}; mend its producer"
        ) from error
    if file.tell() != len(body):
        raise DecodeError(f"an Avro record must end with its last field, got {len(body)} bytes; mend its producer")
    fields: dict[str, Any] = row
    return fields
