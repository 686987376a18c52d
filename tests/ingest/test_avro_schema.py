import json

import fastavro
import pytest
from records import EVERY

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError
from fedmb.ingest.avro_schema import avro_plan, avro_text
from fedmb.ingest.writer_schema import WriterSchema

ROW = '{"type": "record", "name": "Row", "fields": [{"name": "y", "type": "int"}, {"name": "z", "type": %s}]}'


def plan(text, schema=None, kind="AVRO", max_fields=100, references=()):
    return avro_plan(WriterSchema(7, kind, text, references), schema or {"y": Column("int32")}, max_fields)


def test_what_we_write_by_is_what_we_read():
    found = plan(avro_text(EVERY), EVERY)

    assert found.raw == {name for name, column in EVERY.items() if column.shape or column.dtype == "uint64"}
    assert avro_text(dict(reversed(EVERY.items()))) == avro_text(EVERY)
    assert fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(json.loads(avro_text(EVERY))), "md5")


def doubling(depth):
    """A record of two of the next, and so on: small in text, 2**depth types large."""
    inner = {"type": "record", "name": "R0", "fields": []}
    for at in range(1, depth):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": inner["name"]}]
        inner = {"type": "record", "name": f"R{at}", "fields": fields}
    return json.dumps(inner)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ('{"type": "array", "items": "null"}', "take a byte"),
        ('{"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}', "take a byte"),
        ('{"type": "array", "items": {"type": "fixed", "name": "No", "size": 0}}', "take a byte"),
        ('{"type": "map", "values": {"type": "array", "items": "null"}}', "take a byte"),
        ('{"type": "record", "name": "Chain", "fields": [{"name": "n", "type": ["null", "Chain"]}]}', "itself"),
        (
            '{"type": "record", "name": "T", "fields": [{"name": "a", "type": {"type": "map", "values": "T"}}]}',
            "itself",
        ),
        ('["null", "Row"]', "itself"),
        (doubling(40), "few types"),
        ('{"type": "array", "items": ' * 3000 + '"int"' + "}" * 3000, "RecursionError"),
        ('"nothing"', "UnknownType"),
        ("7", "must be an Avro schema"),
    ],
)
def test_a_schema_by_which_a_short_record_may_grow_is_refused(kind, rule):
    with pytest.raises(DecodeError, match=rule):
        plan(ROW % kind)


@pytest.mark.parametrize(
    "kind",
    [
        '"string"',
        '["null", "string", "int"]',
        '{"type": "map", "values": "null"}',
        '{"type": "array", "items": {"type": "map", "values": "bytes"}}',
        '{"type": "enum", "name": "E", "symbols": ["a"]}',
        doubling(5),
    ],
)
def test_other_fields_may_have_any_other_type(kind):
    assert plan(ROW % kind).raw == set()


@pytest.mark.parametrize("text", ["", "{", "[]", '"int"', "[" * 100_000, "null", '{"type": "record", "name": "R"}'])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(DecodeError, match="schema 7"):
        plan(text)


def test_another_kind_too_many_fields_and_a_missing_column_are_refused():
    assert plan(ROW % '"int"', max_fields=2)
    with pytest.raises(DecodeError, match="at most 1 fields"):
        plan(ROW % '"int"', max_fields=1)
    with pytest.raises(DecodeError, match="type AVRO, got PROTOBUF"):
        plan(ROW % '"int"', kind="PROTOBUF")
    with pytest.raises(DecodeError, match="field 'x'"):
        plan(ROW % '"int"', {"x": Column("int8")})


def test_logical_types_are_the_numbers_below_them_unless_they_are_not_numbers():
    when = '{"type": "long", "logicalType": "timestamp-micros"}'
    money = '{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}'

    assert plan(ROW % when, {"z": Column("int64")}).raw == set()
    assert plan(ROW % '"bytes"', {"z": Column("int8", (2,))}).raw == {"z"}
    with pytest.raises(DecodeError, match="plain"):
        plan(ROW % money, {"z": Column("int8", (2,))})


def test_a_referred_type_is_known_by_its_full_name():
    inner = json.dumps({"type": "fixed", "name": "Pair", "namespace": "site", "size": 2})

    assert plan(ROW % '"site.Pair"', {"z": Column("int8", (2,))}, references=(("site.Pair", inner),)).raw == {"z"}
    with pytest.raises(DecodeError, match=r"site\.Pair"):
        plan(ROW % '"site.Pair"', {"z": Column("int8", (2,))})
