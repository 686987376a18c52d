# Records go through a real schema registry (tests/apicurio.py), and through schema files without one.
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EVERY, assert_same, mutated, refused, rows_of
from registry_gateway import gateway

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError, Unreachable
from fedmb.ingest.codec import RowCodec
from fedmb.ingest.protobuf_codec import ProtobufCodec
from fedmb.ingest.protobuf_schema import protobuf_text
from fedmb.ingest.registry_writers import RegistryWriters
from fedmb.ingest.schema_registry import RegistryAccess, SchemaRegistry
from fedmb.ingest.writer_schema import FileWriters

SCHEMA = {"x": Column("float32", (2, 3)), "ok": Column("bool"), "h": Column("float16"), "n": Column("uint64")}
THEIRS = """
syntax = "proto3";
package site.meter;
message Other { string note = 1; }
message Outer {
  message Skipped { int32 a = 1; }
  message Row {
    %s v = 3;
    string note = 4;
  }
}
"""


def from_file(folder, schema, text=None, **options):
    path = folder / f"{random.randrange(1 << 60)}.proto"
    path.write_text(text or protobuf_text(schema))
    return ProtobufCodec(schema, FileWriters(path, **options))


def from_registry(url, schema, subject=""):
    return ProtobufCodec(schema, RegistryWriters(SchemaRegistry(RegistryAccess(url=url)), subject=subject))


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return from_file(tmp_path_factory.getbasetemp(), EVERY)


@settings(max_examples=60)
@given(rows=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_columns_come_back_bit_for_bit(every, rows, seed):
    columns = rows_of(EVERY, rows, seed)

    values = every.encode_rows(columns)

    assert_same(every.decode_many([memoryview(value) for value in values]), columns)
    singles = [every.decode(value) for value in values]
    assert_same({name: np.concatenate([single[name] for single in singles]) for name in EVERY}, columns)
    assert every.encode({name: column[:1] for name, column in columns.items()}) == values[0]


def test_a_registry_tells_reader_and_writer_the_same(registry, subject):
    writer, reader = from_registry(registry.url, EVERY, subject), from_registry(registry.url, EVERY)

    values = writer.encode_rows(rows_of(EVERY, 5))

    assert isinstance(reader, RowCodec)
    assert (values[0][:1], values[0][5:6]) == (b"\0", b"\0")
    assert_same(reader.decode_many(values), rows_of(EVERY, 5))


def test_a_message_inside_another_file_and_message_is_found_by_its_indexes(registry, subject):
    asked = SchemaRegistry(RegistryAccess(url=registry.url))
    asked.register("unit-" + subject, "PROTOBUF", 'syntax = "proto3"; package site; message Unit { double scale = 1; }')
    text = THEIRS.replace("package", 'import "site/unit.proto";\npackage') % "site.Unit unit = 9; int32"
    reference = {"name": "site/unit.proto", "subject": "unit-" + subject, "version": 1}
    content = {"schemaType": "PROTOBUF", "schema": text, "references": [reference]}
    frame = b"\0" + asked._asked("POST", f"/subjects/{subject}/versions", content)["id"].to_bytes(4, "big")
    ours = from_registry(registry.url, {"v": Column("int32")})

    assert ours.decode(frame + b"\x04\x02\x02" + b"\x18\x05")["v"].tolist() == [5]
    for path in (
        b"\0",
        b"\x02\x02",
        b"\x04\x02\0",
        b"\x04\x02\x04",
        b"\x02\x06",
        b"\x02\x01",
        b"\x01",
        b"\xff" * 9,
        b"",
    ):
        assert refused(ours, frame + path + b"\x18\x05")


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


ROW = 'syntax = "proto3";\nmessage Row {\n  %s v = 1;\n}\n'


@pytest.mark.parametrize(
    ("column", "kind", "body", "wanted"),
    [
        (Column("float32"), "double", b"\x09\0\0\0\0\0\0\xf8\x3f", 1.5),
        (Column("float64"), "int64", b"\x08\x03", 3.0),
        (Column("int8"), "sint32", b"\x08\xff\x01", -128),
        (Column("int64"), "int64", b"\x08" + b"\xff" * 9 + b"\x01", -1),
        (Column("uint16"), "fixed32", b"\x0d\x02\0\0\0", 2),
        (Column("bool"), "bool", b"\x08\x01", True),
        (Column("int32"), "int32", b"", 0),
        (Column("int32"), "optional int32", b"\x08\0", 0),
        (Column("float32", (2,)), "repeated float", b"\x0a\x08\0\0\x80\x3f\0\0\0\x40", [1, 2]),
        (Column("int16", (1, 2)), "repeated int32", b"\x08\x01\x08\x02", [[1, 2]]),
        (Column("int16", (2,)), "bytes", b"\x0a\x04\x01\0\x02\0", [1, 2]),
    ],
)
def test_other_libraries_types_are_read(tmp_path, column, kind, body, wanted):
    assert from_file(tmp_path, {"v": column}, ROW % kind).decode(body)["v"].tolist() == [wanted]


@pytest.mark.parametrize(
    ("column", "kind", "body"),
    [
        (Column("int32"), "float", b""),
        (Column("int32"), "bool", b""),
        (Column("bool"), "int32", b""),
        (Column("float32"), "string", b""),
        (Column("float32"), "bytes", b"\x0a\x04\0\0\0\0"),
        (Column("float32"), "repeated float", b"\x0a\x04\0\0\0\0"),
        (Column("float32", (1,)), "float", b""),
        (Column("float32", (1,)), "repeated bytes", b"\x0a\x04\0\0\0\0"),
        (Column("float32", (2,)), "repeated float", b"\x0a\x04\0\0\0\0"),
        (Column("float32", (2,)), "bytes", b"\x0a\x04\0\0\0\0"),
        (Column("int8"), "int32", b"\x08\x80\x01"),
        (Column("uint8"), "int32", b"\x08" + b"\xff" * 9 + b"\x01"),
        (Column("float32"), "float", b"\x0d\0\0\xc0\x7f"),
        (Column("float16"), "float", b"\x0d\0\0\0\x7f"),
        (Column("int32"), "optional int32", b""),
        (Column("int32"), "int32", b"\x08\x01\x10\x01"),
        (Column("int32"), "int32", b"\x0d\x01\0\0\0"),
        (Column("int32"), "int32", b"\x08"),
        (Column("int32"), "map<int32, int32>", b""),
        (Column("int32"), "Row", b""),
        (Column("int32"), "int32 w = 2; int32", b"\x12"),
    ],
)
def test_a_mistyped_or_missing_field_is_refused(tmp_path, column, kind, body):
    assert refused(from_file(tmp_path, {"v": column}, ROW % kind), body)


@pytest.mark.parametrize("arrays", [False, True])
def test_mutations_raise_decode_errors_or_give_a_row_of_the_schema(tmp_path, arrays):
    text = ROW % ("uint32 n = 2; " + ("repeated float" if arrays else "bytes"))
    codec = from_file(tmp_path, {"v": Column("float32", (2, 3)), "n": Column("uint8")}, text, schema_id=1)
    value = codec.encode(rows_of(codec.schema, 1))
    draw, count = random.Random(10), 0

    for _ in range(5000):
        count += refused(codec, mutated(value, draw))
    assert count > 2500


@given(value=st.binary(max_size=60))
def test_random_bytes_are_refused_or_a_row(every, value):
    refused(every, value)
    assert refused(every, b"")


def test_hostile_indexes_compile_nothing_twice(tmp_path):
    codec = from_file(tmp_path, SCHEMA, schema_id=1)
    assert not refused(codec, codec.encode(rows_of(SCHEMA, 1)))
    compiled = list(codec._files.values())

    for index in range(1000):
        assert refused(codec, b"\0\0\0\0\1\x02" + bytes([0x80 | index & 0x7F, index >> 7]))
    assert [*map(id, codec._files.values())] == [*map(id, compiled)]
    assert len(codec._plans) <= 256


def test_what_decode_would_refuse_encode_refuses(tmp_path):
    codec, row = from_file(tmp_path, SCHEMA), rows_of(SCHEMA, 1)

    with pytest.raises(ValueError, match="1 row, got 2"):
        codec.encode(rows_of(SCHEMA, 2))
    with pytest.raises(ValueError, match="finite"):
        codec.encode({**row, "h": np.full_like(row["h"], np.nan)})
    with pytest.raises(ShapeError):
        codec.encode({**row, "n": row["n"].astype(np.int64)})
    with pytest.raises(SettingsError, match="letters"):
        from_file(tmp_path, {"my-x": Column("int8")}, "-")
    with pytest.raises(SettingsError, match="must fit the columns"):
        from_file(tmp_path, {"w": Column("int8")}, ROW % "int32").encode({"w": np.array([1], np.int8)})
    with pytest.raises(ValueError, match="mend the schema"):
        from_file(tmp_path, {"v": Column("int8")}, ROW % "uint32").encode({"v": np.array([-1], np.int8)})
    short = ProtobufCodec(SCHEMA, codec._writers, max_bytes=20)
    with pytest.raises(ValueError, match="at most 20 bytes"):
        short.encode(row)
    assert refused(short, codec.encode(row))


def test_without_protoc_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc_tools", None)

    with pytest.raises(SettingsError, match=r"fedmb\[protobuf\]"):
        from_file(tmp_path, SCHEMA)
