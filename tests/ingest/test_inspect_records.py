"""Records are shown as they are and do nothing to who looks at them."""

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_rows import Flaky
from numbered_log import JSON, PACKED, POISON, SCHEMA, filled

from fedmb.errors import CorruptLog
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.inspect_records import inspect_record, inspected, printable
from fedmb.ingest.log import Record
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ledger import StreamPartition

FIRST = StreamPartition("memory", "t", 0)
SAMPLE = SampleCodec(SCHEMA)
ROW = {"id": np.array([7]), "x": np.array([[1.5, -2.0]], np.float32)}


def shown(log, partitions=(0,), codecs=(PACKED, JSON), **options):
    with closing(log.reader("t", partitions)) as reader:
        return list(inspected(reader, codecs, **options))


def record(value, headers=None, offset=0, timestamp_us=0):
    return Record(FIRST, offset, timestamp_us, value, headers or {})


def test_a_record_is_shown_with_its_columns_and_first_values():
    one, poison, two = shown(filled([6, POISON, 1]))

    assert (one.offset, one.codec, one.schema, one.rows, one.reason) == (0, "packed", PACKED.schema_id, 6, "")
    assert one.columns == {"id": "int64[]", "x": "float32[2]"}
    assert one.values == {"id": [0, 1, 2, 3], "x": [0.0, 0.0, 1.0, -1.0]}
    assert (two.codec, two.rows, two.values["id"]) == ("json", 1, [6])
    assert poison.rows == 0
    assert "must have" in poison.reason
    assert poison.values == {"(bytes)": ["poison"]}


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"limit": 2}, [0, 1]),
        ({"offset": 3}, [3, 4]),
        ({"offset": -1}, [4]),
        ({"offset": -99, "limit": 1}, [0]),
        ({"offset": 99}, []),
    ],
)
def test_the_records_that_were_asked_for_are_shown(options, offsets):
    assert [one.offset for one in shown(filled([1] * 5), **options)] == offsets


def test_partitions_are_shown_one_after_another():
    log = filled([1, 1, 1], [2, 2], [3])

    found = [(one.partition, one.offset) for one in shown(log, range(3), limit=2)]

    assert found == [("memory/t[0]", 0), ("memory/t[0]", 1), ("memory/t[1]", 0), ("memory/t[1]", 1), ("memory/t[2]", 0)]


def test_without_a_schema_records_that_describe_themselves_are_shown():
    packed, row = shown(filled([3, 1]), codecs=())
    sample = inspect_record(record(SAMPLE.encode(ROW), codec_headers(SAMPLE)), ())

    assert (packed.codec, packed.rows, packed.columns["x"]) == ("packed", 3, "float32[2]")
    assert (row.codec, row.values["id"]) == ("json", [3])
    assert "needs a schema, got codec 'sample'" in sample.reason


def test_damage_is_shown_with_its_reason():
    error = CorruptLog("a frame must match its checksum; restore it", topic="t", partition=0, offset=2)
    with closing(filled([1, 1, 1]).reader("t", [0])) as reader:
        (found,) = inspected(Flaky(reader, error=error), (PACKED,))

    assert (found.offset, found.reason) == (2, "a frame must match its checksum; restore it")


@given(st.binary(max_size=300), st.dictionaries(st.text(), st.binary(), max_size=3), st.integers(-(2**63), 2**63 - 1))
@pytest.mark.parametrize("codecs", [(), (PACKED, JSON, SAMPLE)])
def test_no_bytes_can_hurt_who_looks_at_them(codecs, value, headers, timestamp_us):
    for start in (b"", b"fmP1", b"fmP10000" + (8).to_bytes(8, "little"), b'{"a":', b"[" * 5000):
        found = inspect_record(record(start + value, headers, timestamp_us=timestamp_us), codecs)

        texts = [found.reason, found.codec, found.schema, *found.headers, *found.headers.values(), *found.columns]
        assert all(text.isprintable() for text in texts)


def test_control_characters_are_escaped():
    assert printable("a\x1b[31m\r\n\u202eé") == r"a\x1b[31m\r\n\u202eé"
    assert printable("x" * 300, 5) == "xxxxx..."
