"""One row in one record, as a JSON object: for demonstrations and producers that know nothing else.

Some hundred times slower than packed records; strict, because a producer that writes 300 for a byte or NaN for a
number has a fault that a model must not learn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from fedmb.batch.minibatch import Columns, Schema, check_columns
from fedmb.errors import DecodeError
from fedmb.ingest.codec import check_bounds, check_finite, check_schema, schema_id
from fedmb.ingest.plain_rows import column_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; mend the producer of the record")


def _refuse_constant(text: str) -> NoReturn:
    _refuse("numbers of a JSON row must be finite", text)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        _refuse("keys of a JSON row must differ", [key for key, _ in pairs])
    return result


class JsonCodec:
    """One row as a JSON object with a key for each column.

    Args:
        schema: the columns.
        max_bytes: most bytes of one record.

    Raises:
        SettingsError: the schema has a dtype that JSON lacks, or the bound is not positive.
    """

    name = "json"

    def __init__(self, schema: Schema, *, max_bytes: int = 1 << 20) -> None:
        check_schema(schema)
        check_bounds(max_bytes=max_bytes)
        self.schema: Schema = dict(schema)
        self.schema_id = schema_id(schema)
        self._max_bytes = max_bytes

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: there is not exactly one row, a number is not finite, or the bytes are too many.
        """
        values = self.encode_rows(columns)
        if len(values) != 1:
            raise ValueError(f"a JSON record must have 1 row, got {len(values)}; append one record for each row")
        return values[0]

    def encode_rows(self, columns: Columns) -> list[bytes]:
        """The value of a record for each row.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: a number is not finite, or a row's bytes are too many.
        """
        check_columns(columns, self.schema)
        check_finite(columns)
        lists = zip(*(columns[name].tolist() for name in self.schema), strict=True)
        values = [
            json.dumps(dict(zip(self.schema, row, strict=True)), separators=(",", ":"), allow_nan=False).encode()
            for row in lists
        ]
        longest = max(map(len, values), default=0)
        if longest > self._max_bytes:
            raise ValueError(f"a JSON record must be at most {self._max_bytes} bytes, got {longest}; raise max_bytes")
        return values

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row.

        Raises:
            DecodeError: the bytes are not one object with exactly the schema's keys and numbers that fit.
        """
        return self.decode_many([value])

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of one or more records, a row for each: parsed one by one, converted together.

        Raises:
            DecodeError: one of them is not an object with exactly the schema's keys and numbers that fit.
        """
        rows = [self._parsed(value) for value in values]
        return {name: column_of(name, [row[name] for row in rows], wanted) for name, wanted in self.schema.items()}

    def _parsed(self, value: bytes | memoryview) -> dict[str, Any]:
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
        if not isinstance(row, dict) or row.keys() != self.schema.keys():
            _refuse(f"keys of a JSON row must be {sorted(self.schema)}", sorted(row) if isinstance(row, dict) else row)
        return row
