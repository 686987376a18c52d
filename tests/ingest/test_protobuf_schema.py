import pytest
from records import EVERY

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError
from fedmb.ingest.protobuf_schema import ProtobufFile, protobuf_text
from fedmb.ingest.writer_schema import WriterSchema

TEXT = 'syntax = "proto3";\nmessage Row {\n  int32 y = 1;\n  optional int32 z = 2;\n}\n'


def compiled(text, *references, kind="PROTOBUF"):
    return ProtobufFile(WriterSchema(7, kind, text, references))


def test_what_we_write_by_is_what_we_read():
    found = compiled(protobuf_text(EVERY)).plan((0,), EVERY, 100)

    assert (found.raw, found.optional) == (set(), ())
    assert found.message.DESCRIPTOR.full_name == "fedmb.Row"
    assert protobuf_text(dict(reversed(EVERY.items()))) == protobuf_text(EVERY)


def test_a_column_that_a_message_may_lack_is_known():
    assert compiled(TEXT).plan((0,), {"y": Column("int8"), "z": Column("int8")}, 2).optional == ("z",)


def test_two_producers_may_give_one_name_to_different_messages():
    first, second = compiled(TEXT), compiled(TEXT.replace("int32 y", "bool y"))

    assert first.plan((0,), {"y": Column("int8")}, 2)
    assert second.plan((0,), {"y": Column("bool")}, 2)
    with pytest.raises(DecodeError, match="fits it"):
        second.plan((0,), {"y": Column("int8")}, 2)


def test_a_message_that_is_not_there_too_large_or_lacks_a_column_is_refused():
    file, schema = compiled(TEXT), {"y": Column("int8")}

    for path in ((1,), (-1,), (0, 0), (1 << 40,), ()):
        with pytest.raises(DecodeError, match="must have"):
            file.plan(path, schema, 2)
    with pytest.raises(DecodeError, match="at most 1 fields"):
        file.plan((0,), schema, 1)
    with pytest.raises(DecodeError, match="field 'x'"):
        file.plan((0,), {"x": Column("int8")}, 2)


@pytest.mark.parametrize(
    "text", ["", "{}", 'syntax = "proto9";', TEXT + "}", TEXT.replace("int32 y", "Nothing y"), "\0"]
)
def test_what_does_not_compile_is_refused_with_the_compilers_words(text):
    with pytest.raises(DecodeError, match="schema 7"):
        compiled(text).plan((0,), {"y": Column("int8")}, 2)


def test_a_schema_of_another_kind_is_refused():
    with pytest.raises(DecodeError, match="type PROTOBUF, got AVRO"):
        compiled(TEXT, kind="AVRO")


def test_imports_are_what_the_registry_gave_and_the_well_known_ones():
    text = 'syntax = "proto3";\nimport "a/b.proto";\nimport "google/protobuf/timestamp.proto";\n'
    text += "message Row { int32 y = 1; B b = 2; google.protobuf.Timestamp at = 3; }\n"
    other = 'syntax = "proto3";\nmessage B { int32 c = 1; }\n'

    assert compiled(text, ("a/b.proto", other)).plan((0,), {"y": Column("int8")}, 3)
    with pytest.raises(DecodeError, match=r"a/b\.proto"):
        compiled(text)


@pytest.mark.parametrize("name", ["../b.proto", "/b.proto", "a/../../b.proto", "", "a\0b", "\ud800", "a" * 300])
def test_a_reference_writes_nowhere_else(name):
    with pytest.raises(DecodeError, match="plain names"):
        compiled(TEXT, (name, TEXT))


def test_references_that_are_each_others_folders_are_refused():
    with pytest.raises(DecodeError, match="folder"):
        compiled(TEXT, ("a", TEXT), ("a/b.proto", TEXT))
