"""Avro schemas for columns, and columns out of other people's Avro schemas.

A field is a column by its name; further fields are skipped. Its type may be

- boolean, int, long, float, double for a column of single numbers, as far as no number can be clipped: whole numbers
  are accepted where floats are wanted, never the other way round;
- arrays in arrays, one level for each axis, for a column with axes;
- bytes or fixed for a column with axes, or of uint64: its numbers one after another, little-endian, in C order;
- a union of one of these and null, where a row without a value is set aside.

Logical types are read as the numbers below them (a timestamp in milliseconds is a long); decimals and durations are not
numbers and are refused.

Source: https://avro.apache.org/docs/1.12.0/specification.
"""

from __future__ import annotations

import json
import math
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.ingest.writer_schema import WriterSchema

_NUMBERS = {"boolean": "b", "int": "iuf", "long": "iuf", "float": "f", "double": "f"}
_MEANING = "logical"  # under this name fastavro keeps a logical type and does not apply it
_MAX_TYPES = 10_000


class AvroPlan(NamedTuple):
    """How to read records of one writer's schema."""

    schema: Any
    """As fastavro parsed it."""
    names: dict[str, Any]
    """Its named types."""
    raw: frozenset[str]
    """Columns that are bytes or fixed."""


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:200]}; mend its producer, or the task's columns")


def is_raw(column: Column) -> bool:
    """Whether a column's numbers travel as bytes where we choose: those with axes, and those that Avro lacks."""
    return bool(column.shape) or column.dtype == "uint64"


def avro_text(schema: Schema) -> str:
    """The schema by which we write, one record for a row; the same columns give the same text."""
    fields = []
    for name, column in sorted(schema.items()):
        dtype = np.dtype(column.dtype)
        if is_raw(column):
            size = dtype.itemsize * math.prod(column.shape)
            doc = f"{dtype.name} {list(column.shape)}, little-endian, in C order"
            fields.append({"name": name, "type": {"type": "fixed", "name": f"{name}_data", "size": size}, "doc": doc})
            continue
        whole = "int" if np.can_cast(dtype, np.int32) else "long"
        kinds = {"b": "boolean", "i": whole, "u": whole, "f": "double" if dtype.itemsize > 4 else "float"}  # noqa: PLR2004  # bytes of a float
        fields.append({"name": name, "type": kinds[dtype.kind]})
    return json.dumps({"type": "record", "name": "Row", "namespace": "fedmb", "fields": fields}, sort_keys=True)


def avro_plan(writer: WriterSchema, schema: Schema, max_fields: int) -> AvroPlan:
    """How records of a writer's schema become columns.

    Raises:
        DecodeError: it is no Avro record, lacks a column, has another type for it, or could keep a reader busy without
            end.
    """
    import fastavro

    if writer.kind != "AVRO":
        _refuse(f"schema {writer.id} of an Avro record must be of type AVRO", writer.kind)
    names: dict[str, Any] = {}
    try:
        for _, text in writer.references:
            fastavro.parse_schema(_without_meaning(json.loads(text)), named_schemas=names)
        parsed = fastavro.parse_schema(_without_meaning(json.loads(writer.text)), named_schemas=names)
        check_bounded(parsed, names)
    except DecodeError:
        raise
    except Exception as error:  # fastavro's parser raises whatever its parts do
        raise DecodeError(
            f"schema {writer.id} must be an Avro schema, got {type(error).__name__}: {str(error)[:200]}; mend the "
            "producer that registered it"
        ) from error
    if not isinstance(parsed, dict) or parsed.get("type") != "record" or len(parsed["fields"]) > max_fields:
        _refuse(f"schema {writer.id} must be a record of at most {max_fields} fields", writer.text)
    types = {field["name"]: field["type"] for field in parsed["fields"]}
    raw = set()
    for name, column in schema.items():
        if name not in types:
            _refuse(f"schema {writer.id} must have a field {name!r} for the column", sorted(types))
        if _fits(types[name], column, names):
            raw.add(name)
    return AvroPlan(parsed, names, frozenset(raw))


def _without_meaning(schema: Any) -> Any:  # JSON
    """The same schema with its logical types under another name."""
    if isinstance(schema, list):
        return [_without_meaning(inner) for inner in schema]
    if isinstance(schema, dict):
        return {_MEANING if key == "logicalType" else key: _without_meaning(inner) for key, inner in schema.items()}
    return schema


def check_bounded(schema: Any, names: Mapping[str, Any]) -> None:  # JSON
    """Accept a parsed schema whose values are no larger than their records, whatever the bytes are.

    Raises:
        DecodeError: a type contains itself, so that a short record may nest without end; items of an array may take no
            byte at all, so that a short record may claim any number of them; or there are too many types.
    """
    met = count()

    def least_bytes(found: Any, above: tuple[str, ...]) -> int:  # JSON
        """Fewest bytes that a value takes."""
        if next(met) > _MAX_TYPES:
            _refuse("an Avro schema must have few types, each counted where it is used", f"more than {_MAX_TYPES}")
        found = names.get(found, found) if isinstance(found, str) else found
        if isinstance(found, str):
            return {"null": 0, "float": 4, "double": 8}.get(found, 1)
        if isinstance(found, list):
            return 1 + min((least_bytes(inner, above) for inner in found), default=0)
        kind, name = found["type"], str(found.get("name", ""))
        if kind in {"record", "error"}:
            if name in above:
                _refuse("a type of an Avro schema must not contain itself", name)
            return sum(least_bytes(field["type"], (*above, name)) for field in found["fields"])
        if kind == "fixed":
            return max(0, int(found["size"]))
        if kind not in {"array", "map"}:
            return 1 if kind == "enum" else least_bytes(kind, above)
        if least_bytes(found["items" if kind == "array" else "values"], above) == 0 and kind == "array":
            _refuse("items of an Avro array must take a byte or more", found)
        return 1

    least_bytes(schema, ())


def _fits(found: Any, column: Column, names: Mapping[str, Any]) -> bool:  # JSON
    """Whether a field's type is raw bytes for a column; False means numbers.

    Raises:
        DecodeError: it is neither.
    """
    dtype, inner = np.dtype(column.dtype), _plain(found, names)
    size = dtype.itemsize * math.prod(column.shape)
    if inner["type"] in {"bytes", "fixed"} and is_raw(column):
        if _MEANING in inner or inner.get("size", size) != size:
            _refuse(f"bytes of a {dtype.name} column of shape {list(column.shape)} must be {size} plain ones", found)
        return True
    for _ in column.shape:
        if inner["type"] != "array":
            _refuse(f"a column of shape {list(column.shape)} must be bytes, or arrays in arrays", found)
        inner = _plain(inner["items"], names)
    if dtype.kind not in _NUMBERS.get(str(inner["type"]), ""):
        _refuse(f"a column of {dtype.name} must be of an Avro type that fits it", found)
    return False


def _plain(found: Any, names: Mapping[str, Any]) -> dict[str, Any]:  # JSON
    """A type as an object, without the null that it may be instead."""
    while True:
        if isinstance(found, list):
            others = [inner for inner in found if inner != "null"]
            if len(others) != 1:
                _refuse("a column's type must be one, or one and null", found)
            found = others[0]
        elif isinstance(found, str):
            found = names.get(found, {"type": found})
        elif isinstance(found["type"], (dict, list)):
            found = found["type"]
        else:
            plain: dict[str, Any] = found
            return plain
