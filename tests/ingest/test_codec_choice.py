import subprocess
import sys

import numpy as np
import pytest
from records import assert_same, rows_of

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.ingest.avro_schema import avro_text
from fedmb.ingest.codec import codec_headers, decoder_for
from fedmb.ingest.codec_choice import CodecChoice, codecs_in
from fedmb.ingest.record_limits import RecordLimits
from fedmb.ingest.stream_url import StreamUrl

SCHEMA = {"x": Column("float32", (2,)), "y": Column("uint8")}
FILE = "file:///var/log?topic=rows"


def names(choice):
    return [codec.name for codec in choice.for_schema(SCHEMA)]


def test_without_a_choice_every_codec_that_needs_no_foreign_schema_is_there_packed_first():
    url, choice = codecs_in(FILE)

    assert (url, choice) == (FILE, CodecChoice())
    assert names(choice) == ["packed", "json", "sample", "arrow"]


def test_what_is_not_installed_is_not_there_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert names(CodecChoice()) == ["packed", "json", "sample"]
    with pytest.raises(SettingsError, match=r"fedmb\[arrow\]"):
        names(codecs_in(FILE + "&codecs=json,arrow")[1])


def test_a_url_chooses_codecs_and_stays_a_streams_url():
    url, choice = codecs_in("file:///var/my%20log?codecs=sample,packed&topic=rows&checksum=false&partitions=0,1")

    assert url == "file:///var/my%20log?topic=rows&partitions=0,1"
    assert StreamUrl.parse(url).partitions == (0, 1)
    assert names(choice) == ["sample", "packed"]
    assert choice.for_schema(SCHEMA)[0].record_bytes == 9
    assert codecs_in("memory:x?codecs=json") == ("memory:x", CodecChoice(codecs=("json",)))


def test_a_registry_and_who_we_are_there_stand_in_the_url():
    url = "kafka://h:9092/rows?codecs=avro,protobuf&registry=https://r:8081/x&registry_timeout_seconds=2&user=kafka"

    rest, choice = codecs_in(url)

    assert rest == "kafka://h:9092/rows?user=kafka"
    assert (choice.registry.url, choice.registry.timeout_seconds, choice.registry.user) == ("https://r:8081/x", 2, "")
    assert names(choice) == ["avro", "protobuf"]


def test_a_schema_file_needs_no_registry(tmp_path):
    (tmp_path / "row.avsc").write_text(avro_text(SCHEMA))

    _, choice = codecs_in(f"{FILE}&codecs=avro,packed&schema_file={tmp_path}/row.avsc&writer_id=7")
    avro, packed = choice.for_schema(SCHEMA)
    values = avro.encode_rows(rows_of(SCHEMA, 3))

    assert values[0][:5] == b"\0\0\0\0\7"
    assert_same(avro.decode_many(values), rows_of(SCHEMA, 3))
    assert decoder_for(codec_headers(packed), {codec.name: codec for codec in (avro, packed)}, avro) is packed


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("codecs=avr", "did you mean avro"),
        ("codecs=", "got ''"),
        ("codecs=json,json", "named once"),
        ("codecs=json&codecs=packed", "given once"),
        ("codecs=avro", "needs a registry or a schema file, got neither"),
        ("codecs=avro&registry=http://r&schema_file=/row.avsc", "got both"),
        ("codecs=protobuf&schema_file=/row.avsc", r"end in \.proto"),
        ("codecs=avro&schema_file=/nowhere.avsc", "/nowhere.avsc"),
        ("codecs=avro&registry=registry:8081", "https://registry:8081"),
        ("codecs=avro&registry_user=me", "https://registry:8081"),
        ("codecs=json&registry_pasword=x", "registry_pasword"),
        ("codecs=json&checksum=perhaps", "checksum"),
        ("codecs=avro&schema_file=/row.avsc&writer_id=-1", "writer_id"),
    ],
)
def test_a_choice_that_cannot_work_says_why(query, rule):
    with pytest.raises(SettingsError, match=rule):
        codecs_in(f"{FILE}&{query}")[1].for_schema(SCHEMA)


def test_limits_reach_every_codec(tmp_path):
    (tmp_path / "row.avsc").write_text(avro_text(SCHEMA))
    file = str(tmp_path / "row.avsc")
    limits = RecordLimits(max_value_bytes=64, max_row_bytes=64, max_columns=2)
    wide = {"x": Column("float64", (20,)), "y": Column("uint8")}
    (tmp_path / "wide.avsc").write_text(avro_text(wide))
    choice = CodecChoice(codecs=("packed", "json", "arrow"), limits=limits)

    for codec in choice.for_schema(wide):
        with pytest.raises(ValueError, match="at most 64"):
            codec.encode({"x": np.ones((1, 20)), "y": np.ones(1, np.uint8)})
    with pytest.raises(SettingsError, match="at most 64"):
        CodecChoice(codecs=("sample",), limits=limits).for_schema(wide)
    with pytest.raises(SettingsError, match="raise max_columns"):
        codecs_in(FILE + "&max_columns=1")[1].for_schema(wide)
    assert codecs_in(FILE + "&max_row_bytes=64&max_headers=3")[1].limits == RecordLimits(
        max_row_bytes=64, max_headers=3
    )
    (avro,) = CodecChoice(codecs=("avro",), schema_file=file.replace("row", "wide"), limits=limits).for_schema(wide)
    with pytest.raises(ValueError, match="at most 64"):
        avro.encode({"x": np.ones((1, 20)), "y": np.ones(1, np.uint8)})


def test_no_heavy_package_is_imported_before_its_first_record():
    heavy = "{'pyarrow', 'fastavro', 'google.protobuf', 'grpc_tools'}"
    probe = (
        "import sys; from fedmb.batch.minibatch import Column; from fedmb.ingest.codec_choice import CodecChoice; "
        f"CodecChoice().for_schema({{'x': Column('int8')}}); print({heavy} & {{*sys.modules}})"
    )

    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"
