"""One of every `Log`, for the contract that all keep."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.memory_log import MemoryLog

if TYPE_CHECKING:
    from fedmb.ingest.log import LogReader, Record

LONG = 20.0  # seconds that no test waits for, unless something is broken
LOCAL = ("memory", "file", "file of many segments")
KAFKA = ("kafka", "kafka confluent")
NUM_KAFKA_PARTITIONS = 6


def make_log(request, tmp_path):
    """The log that the fixture's parameter names."""
    if request.param in KAFKA:
        address = request.getfixturevalue("kafka").address
        driver = "confluent" if "confluent" in request.param else "kafka-python"
        connection = KafkaConnection(servers=(address,), driver=driver, create_partitions=NUM_KAFKA_PARTITIONS)
        return KafkaLog(connection, id="here")
    if request.param == "memory":
        return MemoryLog("here")
    segment_bytes = 200 if "segments" in request.param else 64 << 20
    return FileLog.open(
        tmp_path / "log", id="here", fsync=FsyncPolicy.never(), segment_bytes=segment_bytes, create=True
    )


# A cluster keeps two of the promises in a way of its own: the tests beside these say how.
local_logs = pytest.mark.parametrize("log", LOCAL, indirect=True)
kafka_logs = pytest.mark.parametrize("log", KAFKA, indirect=True)


def drained(reader: LogReader, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        polled = reader.poll(LONG)
        assert polled, f"{len(records)} of {count} records came"
        records += polled
    assert reader.poll(0.0) == []
    return records


def check_that_seek_gives_the_rest(log, data):
    sizes = data.draw(st.lists(st.integers(0, 120), min_size=1, max_size=30), label="sizes")
    topic = f"t{time.monotonic_ns()}"
    values = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    with closing(log.writer(topic, 0)) as writer:
        writer.append_many(values)
    with closing(log.reader(topic, [0])) as reader:
        for offset in data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=6), label="offsets"):
            reader.seek(reader.partitions[0], offset)
            records = drained(reader, len(sizes) - offset)

            assert [record.offset for record in records] == list(range(offset, len(sizes)))
            assert [bytes(record.value) for record in records] == values[offset:]
