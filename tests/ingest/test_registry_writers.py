# A topic of Apache Kafka, written and read by schemas of a real registry; the gateway is the registry that goes down.
from contextlib import closing

import numpy as np
import pytest
from records import assert_same, rows_of
from registry_gateway import gateway

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, Unreachable
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.codec_choice import codecs_in
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.stream_url import StreamUrl, open_log

SCHEMA = {"x": Column("float32", (4,)), "y": Column("uint8")}


def chosen(url):
    plain, choice = codecs_in(url)
    return StreamUrl.parse(plain), choice.for_schema(SCHEMA)


def written(url, columns, *strays):
    """The topic of a URL filled with its codec's records, then with others without headers."""
    stream, (codec, *_) = chosen(url)
    with closing(open_log(stream).writer(stream.topic, 0)) as writer:
        for value in codec.encode_rows(columns):
            writer.append(value, codec_headers(codec))
        for stray in strays:
            writer.append(stray)


def source(url):
    stream, codecs = chosen(url)
    return LogSource(open_log(stream).reader(stream.topic, [0]), codecs, linger_seconds=5, patience_seconds=20)


def counted(source):
    """Statistics of a source that are not times."""
    found = source.statistics()
    return found.records, found.rejected


@pytest.mark.parametrize("name", ["avro", "protobuf"])
def test_a_topic_is_read_by_the_schemas_of_its_registry(kafka, topic, registry, name):
    url = f"kafka://{kafka.address}/{topic}?codecs={name}&registry={registry.url}"
    columns = rows_of(SCHEMA, 20)
    unknown = b"\0" + (4_000_000_000).to_bytes(4, "big") + b"1234"

    written(f"{url}&subject={topic}-value", columns, unknown, b"no frame")
    with closing(source(url)) as rows:
        found = rows.take(22)

        assert_same(found.columns, columns)
        assert counted(rows) == (22, 2)


def test_a_registry_that_is_down_delays_records_and_sets_none_aside(kafka, topic, registry):
    url = f"kafka://{kafka.address}/{topic}?codecs=avro&registry="
    written(f"{url}{registry.url}&subject={topic}-value", rows_of(SCHEMA, 9))

    with gateway(registry.url) as between, closing(source(url + between.url)) as rows:
        between.answer = lambda _, say: say(503, b"maintenance")
        for _ in range(3):
            with pytest.raises(Unreachable, match="503"):
                rows.take(9)
        assert counted(rows) == (0, 0)
        between.answer = None

        assert_same(rows.take(9).columns, rows_of(SCHEMA, 9))
        assert counted(rows) == (9, 0)


def test_nothing_is_written_without_a_subject(registry):
    (codec,) = chosen(f"memory:x?topic=t&codecs=avro&registry={registry.url}")[1]

    with pytest.raises(SettingsError, match="TOPIC-value"):
        codec.encode(rows_of(SCHEMA, 1))


def test_a_schema_is_registered_once_for_all_records(registry, subject):
    with gateway(registry.url) as between:
        (codec,) = chosen(f"memory:x?topic=t&codecs=avro&registry={between.url}&subject={subject}")[1]
        values = [codec.encode(rows_of(SCHEMA, 1)) for _ in range(5)]

        assert len(set(values)) == 1
        assert between.questions == [f"POST /subjects/{subject}/versions"]
        assert np.array_equal(codec.decode(values[0])["y"], rows_of(SCHEMA, 1)["y"])
