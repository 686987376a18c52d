"""What every `Log` promises, checked for each of them."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ledger import StreamPartition

if TYPE_CHECKING:
    from fedmb.ingest.log import LogReader, Record

LONG = 20.0  # seconds that no test waits for, unless something is broken


@pytest.fixture(params=["memory", "file", "file of many segments"])
def log(request, tmp_path):
    if request.param == "memory":
        return MemoryLog("here")
    segment_bytes = 200 if "segments" in request.param else 64 << 20
    return FileLog.open(
        tmp_path / "log", id="here", fsync=FsyncPolicy.never(), segment_bytes=segment_bytes, create=True
    )


def drained(reader: LogReader, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        polled = reader.poll(LONG)
        assert polled, f"{len(records)} of {count} records came"
        records += polled
    assert reader.poll(0.0) == []
    return records


def test_records_come_back_in_order_with_offsets_time_and_headers(log):
    before = time.time_ns() // 1000
    with closing(log.writer("t", 0)) as writer:
        offsets = [writer.append(b"%d" % number * number, {"n": b"%d" % number}) for number in range(20)]

    with closing(log.reader("t", [0])) as reader:
        records = drained(reader, 20)

    assert offsets == [record.offset for record in records] == list(range(20))
    assert [bytes(record.value) for record in records] == [b"%d" % number * number for number in range(20)]
    assert [record.headers["n"] for record in records] == [b"%d" % number for number in range(20)]
    assert all(before <= record.timestamp_us <= time.time_ns() // 1000 for record in records)
    assert {record.partition for record in records} == {StreamPartition("here", "t", 0)}


def test_records_appended_together_are_records_like_others(log):
    with closing(log.writer("t", 0)) as writer:
        assert writer.append_many([b"a", b"", b"c" * 150], {"k": b"v"}) == 0
        assert writer.append_many([]) == 3
        assert writer.append(b"d") == 3
        assert writer.end_offset == 4

    with closing(log.reader("t", [0])) as reader:
        assert [bytes(record.value) for record in drained(reader, 4)] == [b"a", b"", b"c" * 150, b"d"]


def test_offsets_go_on_after_a_writer_was_closed(log):
    for start in (0, 3, 6):
        with closing(log.writer("t", 0)) as writer:
            assert writer.append_many([b"x"] * 3) == start


def test_a_second_writer_is_refused_until_the_first_is_closed(log):
    writer = log.writer("t", 0)

    with pytest.raises(AlreadyOwned, match=r"here/t\[0\]"):
        log.writer("t", 0)
    log.writer("t", 1).close()
    log.writer("u", 0).close()
    writer.close()
    writer.close()
    log.writer("t", 0).close()


def test_a_closed_writer_and_a_closed_reader_refuse(log):
    writer, reader = log.writer("t", 0), log.reader("t", [0])
    writer.close()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        writer.append(b"")
    with pytest.raises(ValueError, match="closed"):
        reader.poll(0.0)


def test_a_reader_opened_before_the_partition_exists_gets_its_first_record(log):
    with closing(log.reader("t", [0])) as reader:
        assert reader.poll(0.0) == []
        assert reader.end_offsets() == {StreamPartition("here", "t", 0): 0}
        with closing(log.writer("t", 0)) as writer:
            writer.append(b"first")

            assert bytes(drained(reader, 1)[0].value) == b"first"


def test_a_waiting_poll_wakes_for_a_record(log):
    with closing(log.reader("t", [0])) as reader, closing(log.writer("t", 0)) as writer:
        waiting, polled = threading.Event(), []

        def wait() -> None:
            waiting.set()
            polled.extend(reader.poll(LONG))

        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait()
        started = time.monotonic()
        writer.append(b"now")
        thread.join()

        assert bytes(polled[0].value) == b"now"
        assert time.monotonic() - started < LONG / 2


def test_a_waiting_poll_wakes_when_the_reader_is_closed(log):
    reader, waiting, polled = log.reader("t", [0]), threading.Event(), []

    def wait() -> None:
        waiting.set()
        try:
            polled.append(reader.poll(LONG))
        except ValueError:
            polled.append([])

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    reader.close()
    thread.join(LONG / 2)

    assert polled == [[]]


def test_a_poll_gives_no_more_than_asked_and_no_timeout_is_no_wait(log):
    with closing(log.writer("t", 0)) as writer, closing(log.reader("t", [0])) as reader:
        writer.append_many([b"x"] * 10)

        assert [len(reader.poll(0.0, 4)) for _ in range(4)] == [4, 4, 2, 0]
        with pytest.raises(ValueError, match="max_records=0"):
            reader.poll(0.0, 0)


def test_a_backlog_of_one_partition_hides_no_other(log):
    with closing(log.writer("t", 0)) as busy, closing(log.writer("t", 1)) as quiet:
        busy.append_many([b"x"] * 1000)
        quiet.append(b"y")
    with closing(log.reader("t", [0, 1])) as reader:
        polled = reader.poll(0.0, 10)

    assert {record.partition.partition for record in polled} == {0, 1}


def test_seeking_what_is_not_assigned_or_negative_is_refused(log):
    with closing(log.reader("t", [0])) as reader:
        with pytest.raises(ValueError, match=r"here/t\[1\]"):
            reader.seek(StreamPartition("here", "t", 1), 0)
        with pytest.raises(ValueError, match="-1"):
            reader.seek(StreamPartition("here", "t", 0), -1)


def test_seeking_past_the_end_waits_for_that_offset(log):
    with closing(log.writer("t", 0)) as writer, closing(log.reader("t", [0])) as reader:
        writer.append_many([b"x"] * 5)
        reader.seek(reader.partitions[0], 8)
        assert reader.poll(0.0) == []
        writer.append_many([b"x"] * 5)

        assert [record.offset for record in drained(reader, 2)] == [8, 9]


def test_end_offsets_count_what_was_appended(log):
    with closing(log.writer("t", 0)) as writer, closing(log.reader("t", [0, 1])) as reader:
        for count in range(1, 20):
            writer.append(b"x" * count)

            assert list(reader.end_offsets().values()) == [count, 0]


def test_a_topic_names_its_partitions_once_they_exist(log):
    assert log.partitions("t") == ()
    for number in (2, 0):
        with closing(log.writer("t", number)) as writer:
            writer.append(b"x")
    log.writer("u", 5).close()

    assert log.partitions("t") == (0, 2)


def test_nothing_that_was_appended_is_gone_and_acknowledging_changes_nothing(log):
    with closing(log.writer("t", 0)) as writer, closing(log.reader("t", [0])) as reader:
        writer.append_many([b"x"] * 5)
        reader.acknowledge({reader.partitions[0]: 3}, "version 1")

        assert reader.begin_offsets() == {reader.partitions[0]: 0}
        assert [record.offset for record in drained(reader, 5)] == [0, 1, 2, 3, 4]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_seek_gives_the_rest_from_any_offset(log, data):
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


def test_many_readers_read_the_same_while_it_is_written(log):
    count, readers = 300, [log.reader("t", [0]) for _ in range(4)]
    found: list[list[bytes]] = [[] for _ in readers]

    def read(index: int) -> None:
        while len(found[index]) < count:
            found[index] += [bytes(record.value) for record in readers[index].poll(LONG, 7)]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(readers))]
    for thread in threads:
        thread.start()
    with closing(log.writer("t", 0)) as writer:
        for number in range(count):
            writer.append(b"%d" % number)
    for thread in threads:
        thread.join(LONG)
    for reader in readers:
        reader.close()

    assert found == [[b"%d" % number for number in range(count)]] * len(readers)


def test_threads_that_share_a_writer_get_offsets_of_their_own(log):
    offsets: list[int] = []
    with closing(log.writer("t", 0)) as writer:
        threads = [
            threading.Thread(target=lambda: offsets.extend([writer.append(b"x") for _ in range(50)])) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(offsets) == list(range(200))


@pytest.mark.parametrize("topic", ["", ".", "..", "a/b", "a b", "ü", "x" * 250, "a\n", "../up"])
def test_topics_follow_kafkas_rule(log, topic):
    for make in (lambda: log.writer(topic, 0), lambda: log.reader(topic, [0])):
        with pytest.raises(SettingsError, match="topic"):
            make()


@pytest.mark.parametrize("partition", [-1, 1.0, True, "0"])
def test_partitions_are_whole_numbers_from_0(log, partition):
    for make in (lambda: log.writer("t", partition), lambda: log.reader("t", [partition])):
        with pytest.raises(SettingsError, match="partition"):
            make()


def test_a_reader_of_nothing_is_refused(log):
    with pytest.raises(SettingsError, match="got none"):
        log.reader("t", [])
