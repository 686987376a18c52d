import pytest

from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.writer_schema import MAX_SCHEMA_BYTES, FileWriters, check_names


@pytest.fixture
def path(tmp_path):
    (tmp_path / "row.avsc").write_text('"int"')
    return tmp_path / "row.avsc"


def test_a_file_is_the_schema_of_every_record(path):
    writers = FileWriters(path)

    schema, body = writers.opened(b"\2")

    assert (schema.kind, schema.text, bytes(body), writers.framed) == ("AVRO", '"int"', b"\2", False)
    assert writers.for_writing("AVRO", "other") == (schema, b"")


def test_a_file_with_an_id_is_the_schema_of_the_records_that_name_it(path):
    writers = FileWriters(path, schema_id=258)

    schema, frame = writers.for_writing("AVRO", "other")
    found, body = writers.opened(memoryview(frame + b"\2"))

    assert (frame, found, bytes(body), writers.framed) == (b"\0\0\0\1\2", schema, b"\2", True)
    with pytest.raises(DecodeError, match="schema 258, got 259"):
        writers.opened(b"\0\0\0\1\3\2")


@pytest.mark.parametrize("value", [b"", b"\0\0\0\0", b"\1\0\0\1\2\2", b"{}{}{}"])
def test_what_has_no_frame_is_refused_where_one_is_due(path, value):
    with pytest.raises(DecodeError, match="begin with 0"):
        FileWriters(path, schema_id=258).opened(value)


def test_a_file_that_is_no_schema_is_a_setting_to_mend(path):
    with pytest.raises(SettingsError, match=r"\.avsc or \.proto"):
        FileWriters(path.with_suffix(".json"))
    with pytest.raises(SettingsError, match="readable text"):
        FileWriters(path.with_name("absent.avsc"))
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="readable text"):
        FileWriters(path)
    path.write_bytes(b" " * (MAX_SCHEMA_BYTES + 1))
    with pytest.raises(SettingsError, match="at most"):
        FileWriters(path)


@pytest.mark.parametrize("name", ["", "1x", "x-y", "x y", "größe", "x.y", "x\n"])
def test_a_name_that_the_formats_lack_is_refused(name):
    check_names(["x", "_1", "aB9"])
    with pytest.raises(SettingsError, match="letters, digits and _"):
        check_names(["x", name])
