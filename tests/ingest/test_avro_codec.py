# Records go through a real schema registry (tests/apicurio.py), and through schema files without one.
import io
import json
import random
import sys

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EVERY, assert_same, mutated, refused, rows_of
from registry_gateway import gateway

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError, Unreachable
from fedmb.ingest.avro_codec import AvroCodec
from fedmb.ingest.avro_schema import avro_text
from fedmb.ingest.codec import DTYPES, RowCodec
from fedmb.ingest.registry_writers import RegistryWriters
from fedmb.ingest.schema_registry import RegistryAccess, SchemaRegistry
from fedmb.ingest.writer_schema import FileWriters

SCHEMA = {"x": Column("float32", (2, 3)), "ok": Column("bool"), "h": Column("float16"), "n": Column("uint64")}


def from_file(folder, schema, text=None, **options):
    path = folder / f"{random.randrange(1 << 60)}.avsc"
    path.write_text(text or avro_text(schema))
    return AvroCodec(schema, FileWriters(path, **options))


def from_registry(url, schema, subject=""):
    return AvroCodec(schema, RegistryWriters(SchemaRegistry(RegistryAccess(url=url)), subject=subject))


def record(*fields, **row) -> tuple[str, bytes]:
    """A writer's schema and a record of it without a frame, as another library would write them."""
    text = {"type": "record", "name": "Theirs", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    file = io.BytesIO()
    fastavro.schemaless_writer(file, text, row)
    return json.dumps(text), file.getvalue()


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
        st.builds(Column, st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=3).map(tuple)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 9),
    st.integers(0, 2**32),
    st.sampled_from([None, 7, (1 << 32) - 1]),
)
def test_columns_come_back_bit_for_bit(tmp_path_factory, schema, rows, seed, number):
    codec = from_file(tmp_path_factory.getbasetemp(), schema, schema_id=number)
    columns = rows_of(schema, rows, seed)

    values = codec.encode_rows(columns)

    assert_same(codec.decode_many([memoryview(value) for value in values]), columns)
    singles = [codec.decode(value) for value in values]
    assert_same({name: np.concatenate([single[name] for single in singles]) for name in schema}, columns)
    assert codec.encode({name: column[:1] for name, column in columns.items()}) == values[0]


def test_a_registry_tells_reader_and_writer_the_same(registry, subject):
    writer, reader = from_registry(registry.url, EVERY, subject), from_registry(registry.url, EVERY)

    values = writer.encode_rows(rows_of(EVERY, 5))

    assert isinstance(reader, RowCodec)
    assert values[0][:1] == b"\0"
    assert_same(reader.decode_many(values), rows_of(EVERY, 5))


def test_schemas_of_several_producers_are_read_beside_each_other(registry, subject):
    first, _ = record(("y", "int"), y=1)
    second, _ = record(
        ("note", "string"), ("y", ["null", {"type": "long", "logicalType": "timestamp-millis"}]), note="", y=2
    )
    asked = SchemaRegistry(RegistryAccess(url=registry.url))
    frames = [
        b"\0" + asked.register(f"{at}-{subject}", "AVRO", text).to_bytes(4, "big")
        for at, text in enumerate((first, second))
    ]
    ours = from_registry(registry.url, {"y": Column("int64")})

    found = ours.decode_many([frames[0] + b"\x02", frames[1] + b"\x02a" + b"\x02\x04", frames[0] + b"\x06"])

    assert found["y"].tolist() == [1, 2, 3]


def test_what_a_schema_refers_to_is_known(registry, subject):
    asked = SchemaRegistry(RegistryAccess(url=registry.url))
    inner = {"type": "fixed", "name": "Pair", "namespace": "site", "size": 8}
    asked.register("inner-" + subject, "AVRO", json.dumps(inner))
    outer = {"type": "record", "name": "Row", "fields": [{"name": "x", "type": "site.Pair"}]}
    reference = {"name": "site.Pair", "subject": "inner-" + subject, "version": 1}
    number = asked._asked(
        "POST", f"/subjects/{subject}/versions", {"schema": json.dumps(outer), "references": [reference]}
    )["id"]

    found = from_registry(registry.url, {"x": Column("int32", (2,))}).decode(
        b"\0" + number.to_bytes(4, "big") + b"\1\0\0\0\2\0\0\0"
    )

    assert found["x"].tolist() == [[1, 2]]


def test_an_unknown_schema_is_set_aside_and_a_dead_registry_is_not(registry, subject):
    with gateway(registry.url) as between:
        ours = from_registry(between.url, SCHEMA, subject)
        value = ours.encode(rows_of(SCHEMA, 1))
        assert not refused(ours, value)
        stranger = from_registry(between.url, SCHEMA)
        with pytest.raises(DecodeError, match="id 4000000000"):
            stranger.decode(b"\0" + (4_000_000_000).to_bytes(4, "big") + value[5:])

    assert not refused(ours, value), "what was told once is known"
    with pytest.raises(Unreachable):
        stranger.decode(value)


def test_nobody_registers_unasked(registry):
    with pytest.raises(SettingsError, match="subject"):
        from_registry(registry.url, SCHEMA).encode(rows_of(SCHEMA, 1))


@pytest.mark.parametrize(
    ("column", "kind", "given", "wanted"),
    [
        (Column("float32"), "double", 1.5, 1.5),
        (Column("float64"), "long", 3, 3.0),
        (Column("float32"), ["null", "float"], 1.5, 1.5),
        (Column("int8"), "long", -128, -128),
        (Column("int64"), {"type": "int", "logicalType": "date"}, 20_000, 20_000),
        (Column("bool"), "boolean", True, True),
        (Column("float32", (2,)), {"type": "array", "items": "double"}, [1.0, 2.0], [1, 2]),
        (Column("int16", (1, 2)), {"type": "array", "items": {"type": "array", "items": "int"}}, [[1, 2]], [[1, 2]]),
        (Column("int16", (2,)), "bytes", b"\1\0\2\0", [1, 2]),
        (Column("uint64"), {"type": "fixed", "name": "u", "size": 8}, b"\xff" * 8, (1 << 64) - 1),
    ],
)
def test_other_libraries_types_are_read(tmp_path, column, kind, given, wanted):
    text, value = record(("more", "string"), ("v", kind), ("most", "bytes"), more="né", v=given, most=b"1")

    assert from_file(tmp_path, {"v": column}, text).decode(value)["v"].tolist() == [wanted]


@pytest.mark.parametrize(
    ("column", "kind", "given"),
    [
        (Column("int32"), "float", 1.0),
        (Column("int32"), "boolean", True),
        (Column("bool"), "int", 1),
        (Column("float32"), "string", "1"),
        (Column("float32"), "bytes", b"\0\0\0\0"),
        (Column("float32"), ["int", "float"], 1.0),
        (Column("float32"), ["null", "float"], None),
        (Column("float32"), "double", 1e300),
        (Column("float32"), "float", float("nan")),
        (Column("int8"), "int", 128),
        (Column("uint8"), "int", -1),
        (Column("float32", (2,)), "float", 1.0),
        (Column("float32", (2,)), {"type": "array", "items": "float"}, [1.0]),
        (Column("float32", (2,)), {"type": "array", "items": ["null", "float"]}, [1.0, None]),
        (Column("float32", (2,)), {"type": "array", "items": "string"}, ["1", "2"]),
        (Column("float32", (2,)), "bytes", b"1234567"),
        (Column("float32", (2,)), {"type": "fixed", "name": "f", "size": 4}, b"1234"),
        (Column("float32", (1,)), "bytes", b"\0\0\xc0\x7f"),
        (Column("bool", (1,)), "bytes", b"\2"),
        (Column("float32"), {"type": "map", "values": "float"}, {"a": 1.0}),
        (Column("float32"), {"type": "enum", "name": "e", "symbols": ["a"]}, "a"),
    ],
)
def test_a_mistyped_field_is_refused(tmp_path, column, kind, given):
    text, value = record(("v", kind), v=given)

    assert refused(from_file(tmp_path, {"v": column}, text), value)


def test_a_schema_file_of_ones_own_is_written_by(tmp_path):
    columns = {"y": np.array([3], np.int32), "x": np.array([[1, 2]], np.float32)}
    schema = {"y": Column("int32"), "x": Column("float32", (2,))}
    floats = {"type": "array", "items": "float"}
    more = {"name": "z", "type": "string", "default": "none"}
    text = {"type": "record", "name": "R", "fields": [{"name": "x", "type": floats}, {"name": "y", "type": "long"}]}

    short = from_file(tmp_path, schema, json.dumps(text)).encode(columns)
    text["fields"].append(more)
    long = from_file(tmp_path, schema, json.dumps(text)).encode(columns)
    text["fields"][-1] = {"name": "z", "type": "string"}

    assert fastavro.schemaless_reader(io.BytesIO(long), text, None) == {"x": [1.0, 2.0], "y": 3, "z": "none"}
    assert long == short + b"\x08none"
    with pytest.raises(ValueError, match="mend the schema"):
        from_file(tmp_path, schema, json.dumps(text)).encode(columns)
    with pytest.raises(SettingsError, match="'x'"):
        from_file(tmp_path, schema, record(("y", "int"), y=1)[0]).encode(columns)


@pytest.mark.parametrize("arrays", [False, True])
def test_mutations_raise_decode_errors_or_give_a_row_of_the_schema(tmp_path, arrays):
    floats = {"type": "array", "items": "float"}
    kind = {"type": "array", "items": floats} if arrays else "bytes"
    text, value = record(("n", "long"), ("x", kind), n=5, x=[[1.0] * 3] * 2 if arrays else bytes(24))
    codec = from_file(tmp_path, {"x": Column("float32", (2, 3)), "n": Column("uint8")}, text, schema_id=1)
    draw, count = random.Random(9), 0

    for _ in range(5000):
        count += refused(codec, mutated(b"\0\0\0\0\1" + value, draw))
    assert count > 2500


@given(value=st.binary(max_size=60))
def test_random_bytes_are_refused_or_a_row(tmp_path_factory, value):
    codec = from_file(tmp_path_factory.getbasetemp(), SCHEMA)

    refused(codec, value)
    assert refused(codec, b"")


def test_what_decode_would_refuse_encode_refuses(tmp_path):
    codec, row = from_file(tmp_path, SCHEMA), rows_of(SCHEMA, 1)

    with pytest.raises(ValueError, match="1 row, got 2"):
        codec.encode(rows_of(SCHEMA, 2))
    with pytest.raises(ValueError, match="finite"):
        codec.encode({**row, "h": np.full_like(row["h"], np.nan)})
    with pytest.raises(ShapeError):
        codec.encode({**row, "n": row["n"].astype(np.int64)})
    with pytest.raises(SettingsError, match="letters"):
        from_file(tmp_path, {"my-x": Column("int8")}, "{}")
    short = AvroCodec(SCHEMA, codec._writers, max_bytes=20)
    with pytest.raises(ValueError, match="at most 20 bytes"):
        short.encode(row)
    assert refused(short, codec.encode(row))


def test_without_fastavro_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastavro", None)

    with pytest.raises(SettingsError, match=r"fedmb\[avro\]"):
        from_file(tmp_path, SCHEMA)
