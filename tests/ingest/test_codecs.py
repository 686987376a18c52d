from contextlib import closing

import numpy as np
import pytest
from numbered_log import JSON, PACKED, SCHEMA, filled

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.ingest.assembler import AHEAD_BYTES, Assembler
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.codec_choice import codecs_in
from fedmb.ingest.codecs import Codecs
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.inspect_records import inspect_record
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.record_limits import RecordLimits

URL = "file:///var/log?topic=rows"
MANY = {f"extra-{number}": b"x" * 300 for number in range(98)}  # a hundred headers of some 30 kB with the codec's own


def a_log_of_many_headers():
    log = MemoryLog()
    with closing(log.writer("t", 0)) as writer:
        writer.append(PACKED.encode({"id": np.array([7]), "x": np.zeros((1, 2), np.float32)}), codec_headers(PACKED))
        writer.append(
            PACKED.encode({"id": np.array([8]), "x": np.zeros((1, 2), np.float32)}), codec_headers(PACKED) | MANY
        )
    return log


def chosen(query):
    return codecs_in(URL + query)[1].for_schema(SCHEMA)


@pytest.mark.parametrize(
    ("codecs", "said"),
    [
        ([], "one or more codecs"),
        ([PACKED, PACKED], "different names"),
        ([PACKED, JsonCodec({"x": Column("int8")})], "one schema"),
    ],
)
def test_codecs_that_do_not_fit_together_are_refused(codecs, said):
    with pytest.raises(SettingsError, match=said):
        Codecs(codecs)


def test_codecs_are_a_sequence_in_their_order_and_bring_their_limits_along():
    limits = RecordLimits(max_headers=3)
    codecs = Codecs([JSON, PACKED], limits)

    assert list(codecs) == [JSON, PACKED]
    assert (codecs[1], len(codecs), codecs.schema) == (PACKED, 2, SCHEMA)
    assert codecs.decoder({}) is JSON
    assert codecs.decoder(codec_headers(PACKED)) is PACKED
    assert Codecs(codecs).limits is limits
    assert Codecs([JSON]).limits == RecordLimits()


@pytest.mark.parametrize(
    ("query", "rejected"),
    [
        ("", 1),
        ("&max_headers=2", 1),
        ("&max_headers=500", 1),
        ("&max_header_bytes=100000", 1),
        ("&max_headers=500&max_header_bytes=100000", 0),
    ],
)
def test_what_a_url_says_about_headers_decides_which_records_a_source_sets_aside(query, rejected):
    with closing(LogSource(a_log_of_many_headers().reader("t", [0]), chosen(query), patience_seconds=0.0)) as source:
        taken = source.take(10).columns["id"].tolist()

        assert taken == [7, 8][: 2 - rejected]
        assert source.statistics().rejected == rejected


def test_an_inspected_record_is_judged_by_the_same_limits():
    (_, record) = a_log_of_many_headers().reader("t", [0]).poll(0.0)

    assert "raise max_headers" in inspect_record(record, chosen("")).reason
    assert inspect_record(record, chosen("&max_headers=500&max_header_bytes=100000")).reason == ""


def test_a_task_may_have_as_many_columns_as_its_url_allows():
    wide = {f"c{number}": Column("int8") for number in range(1200)}
    columns = {name: np.ones(3, np.int8) for name in wide}

    with pytest.raises(SettingsError, match="raise max_columns"):
        codecs_in(URL)[1].for_schema(wide)
    codec = codecs_in(URL + "&codecs=sample&max_columns=2000")[1].for_schema(wide)[0]
    assert codec.decode(codec.encode({name: array[:1] for name, array in columns.items()})).keys() == wide.keys()


def test_large_records_are_not_fetched_ahead():
    schema = {"id": Column("int64"), "x": Column("float32", (AHEAD_BYTES // 8,))}
    large, log = PackedCodec(schema), MemoryLog()
    value = large.encode({"id": np.array([0]), "x": np.zeros((1, AHEAD_BYTES // 8), np.float32)})
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([value] * 12, codec_headers(large))
    assembler, ahead = Assembler(log.reader("t", [0]), [large], CountedDeadLetters()), []
    while assembler.run(1) is not None:
        ahead.append(assembler.buffered_records)

    assert len(ahead) == 12
    assert max(ahead) <= AHEAD_BYTES // len(value)


def test_small_records_are_fetched_some_ahead_of_need():
    polls, log = [], filled([8] * 100)
    reader = log.reader("t", [0])

    class Counting:
        partitions, seek = reader.partitions, reader.seek

        def poll(self, timeout_seconds, max_records):
            polls.append(max_records)
            return reader.poll(timeout_seconds, max_records)

    assembler = Assembler(Counting(), [PACKED, JSON], CountedDeadLetters())
    rows = 0
    while (run := assembler.run(8)) is not None:
        rows += len(run)

    assert rows == 800
    assert len(polls) < 10
