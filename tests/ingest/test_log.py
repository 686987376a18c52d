"""What every `Log` promises, checked for each of them."""

from __future__ import annotations

import re
import threading
import time
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_worlds import (
    KAFKA,
    LOCAL,
    LONG,
    NUM_KAFKA_PARTITIONS,
    check_that_seek_gives_the_rest,
    drained,
    kafka_logs,
    local_logs,
    make_log,
)

from fedmb.errors import AlreadyOwned, RecordsGone, SettingsError
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ledger import StreamPartition


@pytest.fixture(params=LOCAL + KAFKA)
def log(request, tmp_path):
    return make_log(request, tmp_path)


def test_records_come_back_in_order_with_offsets_time_and_headers(log, topic):
    before = time.time_ns() // 1_000_000 * 1000  # Kafka keeps milliseconds
    with closing(log.writer(topic, 0)) as writer:
        offsets = [writer.append(b"%d" % number * number, {"n": b"%d" % number}) for number in range(20)]

    with closing(log.reader(topic, [0])) as reader:
        records = drained(reader, 20)

    assert offsets == [record.offset for record in records] == list(range(20))
    assert [bytes(record.value) for record in records] == [b"%d" % number * number for number in range(20)]
    assert [record.headers["n"] for record in records] == [b"%d" % number for number in range(20)]
    assert all(before <= record.timestamp_us <= time.time_ns() // 1000 for record in records)
    assert {record.partition for record in records} == {StreamPartition("here", topic, 0)}


def test_records_appended_together_are_records_like_others(log, topic):
    with closing(log.writer(topic, 0)) as writer:
        assert writer.append_many([b"a", b"", b"c" * 150], {"k": b"v"}) == 0
        assert writer.append_many([]) == 3
        assert writer.append(b"d") == 3
        assert writer.end_offset == 4

    with closing(log.reader(topic, [0])) as reader:
        assert [bytes(record.value) for record in drained(reader, 4)] == [b"a", b"", b"c" * 150, b"d"]


def test_offsets_go_on_after_a_writer_was_closed(log, topic):
    for start in (0, 3, 6):
        with closing(log.writer(topic, 0)) as writer:
            assert writer.append_many([b"x"] * 3) == start


@local_logs
def test_a_second_writer_is_refused_until_the_first_is_closed(log, topic):
    writer = log.writer(topic, 0)

    with pytest.raises(AlreadyOwned, match=re.escape(f"here/{topic}[0]")):
        log.writer(topic, 0)
    log.writer(topic, 1).close()
    log.writer(f"{topic}-other", 0).close()
    writer.close()
    writer.close()
    log.writer(topic, 0).close()


@kafka_logs
def test_a_second_writer_of_a_cluster_stops_at_its_first_record_while_the_first_goes_on(log, topic):
    with closing(log.writer(topic, 0)) as first:
        second = log.writer(topic, 0)
        first.append(b"first")
        first.flush()

        with pytest.raises(AlreadyOwned, match=re.escape(f"here/{topic}[0]")):
            second.append(b"second")
        second.close()


def test_a_closed_writer_and_a_closed_reader_refuse(log, topic):
    writer, reader = log.writer(topic, 0), log.reader(topic, [0])
    writer.close()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        writer.append(b"")
    with pytest.raises(ValueError, match="closed"):
        reader.poll(0.0)


def test_a_reader_opened_before_the_partition_exists_gets_its_first_record(log, topic):
    with closing(log.reader(topic, [0])) as reader:
        assert reader.poll(0.0) == []
        assert reader.end_offsets() == {StreamPartition("here", topic, 0): 0}
        with closing(log.writer(topic, 0)) as writer:
            writer.append(b"first")

            assert bytes(drained(reader, 1)[0].value) == b"first"


def test_a_waiting_poll_wakes_for_a_record(log, topic):
    with closing(log.reader(topic, [0])) as reader, closing(log.writer(topic, 0)) as writer:
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


def test_a_waiting_poll_wakes_when_the_reader_is_closed(log, topic):
    reader, waiting, polled = log.reader(topic, [0]), threading.Event(), []

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


def test_a_poll_gives_no_more_than_asked_and_no_timeout_is_no_wait(log, topic):
    with closing(log.writer(topic, 0)) as writer, closing(log.reader(topic, [0])) as reader:
        writer.append_many([b"x"] * 10)
        writer.flush()

        assert [len(reader.poll(0.0, 4)) for _ in range(4)] == [4, 4, 2, 0]
        with pytest.raises(ValueError, match="max_records=0"):
            reader.poll(0.0, 0)


def test_a_backlog_of_one_partition_hides_no_other(log, topic):
    with closing(log.writer(topic, 0)) as busy, closing(log.writer(topic, 1)) as quiet:
        busy.append_many([b"x"] * 1000)
        quiet.append(b"y")
    with closing(log.reader(topic, [0, 1])) as reader:
        polled = reader.poll(0.0, 10)

    assert {record.partition.partition for record in polled} == {0, 1}


def test_seeking_what_is_not_assigned_or_negative_is_refused(log, topic):
    with closing(log.reader(topic, [0])) as reader:
        with pytest.raises(ValueError, match=re.escape(f"here/{topic}[1]")):
            reader.seek(StreamPartition("here", topic, 1), 0)
        with pytest.raises(ValueError, match="-1"):
            reader.seek(StreamPartition("here", topic, 0), -1)


@local_logs
def test_seeking_past_the_end_waits_for_that_offset(log, topic):
    with closing(log.writer(topic, 0)) as writer, closing(log.reader(topic, [0])) as reader:
        writer.append_many([b"x"] * 5)
        reader.seek(reader.partitions[0], 8)
        assert reader.poll(0.0) == []
        writer.append_many([b"x"] * 5)

        assert [record.offset for record in drained(reader, 2)] == [8, 9]


@kafka_logs
def test_seeking_past_the_end_of_a_clusters_topic_says_that_it_is_another_topic(log, topic):
    with closing(log.writer(topic, 0)) as writer:
        writer.append_many([b"x"] * 5)
    with closing(log.reader(topic, [0])) as reader:
        reader.seek(reader.partitions[0], 8)

        with pytest.raises(RecordsGone, match="made anew") as raised:
            reader.poll(LONG)
        assert (raised.value.topic, raised.value.partition, raised.value.offset) == (topic, 0, 8)
        reader.seek(reader.partitions[0], 4)
        assert [record.offset for record in drained(reader, 1)] == [4]


def test_end_offsets_count_what_was_appended(log, topic):
    with closing(log.writer(topic, 0)) as writer, closing(log.reader(topic, [0, 1])) as reader:
        for count in range(1, 20):
            writer.append(b"x" * count)
            writer.flush()

            assert list(reader.end_offsets().values()) == [count, 0]


def test_a_topic_names_its_partitions_once_they_exist(log, topic):
    assert log.partitions(topic) == ()
    for number in (2, 0):
        with closing(log.writer(topic, number)) as writer:
            writer.append(b"x")
    log.writer(f"{topic}-other", 5).close()

    made_at_once = tuple(range(NUM_KAFKA_PARTITIONS))
    assert log.partitions(topic) == (made_at_once if isinstance(log, KafkaLog) else (0, 2))


def test_nothing_that_was_appended_is_gone_and_acknowledging_changes_nothing(log, topic):
    with closing(log.writer(topic, 0)) as writer, closing(log.reader(topic, [0])) as reader:
        writer.append_many([b"x"] * 5)
        writer.flush()
        reader.acknowledge({reader.partitions[0]: 3}, "version 1")

        assert reader.begin_offsets() == {reader.partitions[0]: 0}
        assert [record.offset for record in drained(reader, 5)] == [0, 1, 2, 3, 4]


@local_logs
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_seek_gives_the_rest_from_any_offset(log, data):
    check_that_seek_gives_the_rest(log, data)


@kafka_logs
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_seek_gives_the_rest_of_a_clusters_topic(log, data):  # fewer of them: each makes a topic
    check_that_seek_gives_the_rest(log, data)


def test_many_readers_read_the_same_while_it_is_written(log, topic):
    count, readers = 300, [log.reader(topic, [0]) for _ in range(4)]
    found: list[list[bytes]] = [[] for _ in readers]

    def read(index: int) -> None:
        while len(found[index]) < count:
            found[index] += [bytes(record.value) for record in readers[index].poll(LONG, 7)]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(readers))]
    for thread in threads:
        thread.start()
    with closing(log.writer(topic, 0)) as writer:
        for number in range(count):
            writer.append(b"%d" % number)
    for thread in threads:
        thread.join(LONG)
    for reader in readers:
        reader.close()

    assert found == [[b"%d" % number for number in range(count)]] * len(readers)


def test_threads_that_share_a_writer_get_offsets_of_their_own(log, topic):
    offsets: list[int] = []
    with closing(log.writer(topic, 0)) as writer:
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
def test_partitions_are_whole_numbers_from_0(log, partition, topic):
    for make in (lambda: log.writer(topic, partition), lambda: log.reader(topic, [partition])):
        with pytest.raises(SettingsError, match="partition"):
            make()


def test_a_reader_of_nothing_is_refused(log, topic):
    with pytest.raises(SettingsError, match="got none"):
        log.reader(topic, [])
