"""What both libraries must do behind the one seam."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka import KafkaProducer
from kafka_topics import DRIVERS, LONG, fill_in_transactions, fill_numbered, make_topic, wait_until

from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_driver import NO_HEADERS, HeaderCache
from fedmb.ingest.kafka_driver_choice import open_driver
from fedmb.ledger import StreamPartition


@pytest.fixture(params=DRIVERS)
def opened(request, kafka, topic):
    with closing(open_driver("here", topic, KafkaConnection(servers=(kafka.address,), driver=request.param))) as driver:
        yield driver


def fetched(driver, count: int):
    stretches = []
    wait_until(lambda: stretches.extend(driver.fetch(0.2, 100)) or sum(len(one.records) for one in stretches) >= count)
    return stretches


def test_records_have_fedmbs_form_and_share_their_headers(kafka, topic, opened):
    make_topic(kafka.address, topic)
    with closing(KafkaProducer(bootstrap_servers=kafka.address)) as producer:
        for headers in ([], [("a", b"1"), ("b", b"")], [("a", b"1"), ("b", b"")], [("a", b"2"), ("a", b"3")]):
            producer.send(topic, b"value", headers=headers, timestamp_ms=1_700_000_000_123)
        producer.send(topic, None, key=b"deleted")
        producer.flush()
    opened.assign({0: 0})
    records = [record for stretch in fetched(opened, 5) for record in stretch.records]

    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    assert [record.value for record in records] == [b"value"] * 4 + [b""]
    assert {record.partition for record in records} == {StreamPartition("here", topic, 0)}
    assert {record.timestamp_us for record in records[:4]} == {1_700_000_000_123_000}
    assert [dict(record.headers) for record in records[1:4]] == [{"a": b"1", "b": b""}] * 2 + [{"a": b"3"}]
    assert records[0].headers is records[4].headers is NO_HEADERS
    assert records[1].headers is records[2].headers


def test_stretches_count_their_bytes_and_hold_one_partition(kafka, topic, opened):
    fill_numbered(kafka.address, topic, partitions=3, count=20, size=100)
    opened.assign(dict.fromkeys(range(3), 5))
    stretches = fetched(opened, 45)

    assert opened.assigned() == {0, 1, 2}
    for stretch in stretches:
        assert stretch.num_bytes == 100 * len(stretch.records)
        assert {record.partition.partition for record in stretch.records} == {stretch.partition}
    for partition in range(3):
        found = [r.offset for stretch in stretches if stretch.partition == partition for r in stretch.records]
        assert found == list(range(5, 20))
        assert opened.position(partition) == 20


def test_no_more_records_come_than_asked_for(kafka, topic, opened):
    fill_numbered(kafka.address, topic, partitions=2, count=20)
    opened.assign({0: 0, 1: 0})
    counts = []
    wait_until(lambda: counts.extend(len(one.records) for one in opened.fetch(0.2, 1)) or sum(counts) >= 40)

    assert counts == [1] * 40


def test_positions_pass_markers_and_aborted_records(kafka, topic, opened):
    make_topic(kafka.address, topic)
    fill_in_transactions(kafka.address, topic, [(2, True), (3, False)])
    opened.assign({0: 0})
    assert sum(len(one.records) for one in fetched(opened, 2)) == 2
    wait_until(lambda: opened.fetch(0.05, 100) == [] and opened.position(0) == 7)

    assert opened.end_offsets([0], LONG) == {0: 7}


def test_a_paused_partition_gives_nothing_until_it_is_resumed(kafka, topic, opened):
    fill_numbered(kafka.address, topic, partitions=2, count=50)
    opened.assign({0: 0, 1: 0})
    opened.pause([0])
    assert {stretch.partition for stretch in fetched(opened, 50)} == {1}
    assert opened.fetch(0.3, 100) == []
    opened.resume([0])
    assert {stretch.partition for stretch in fetched(opened, 50)} == {0}


def test_an_assignment_replaces_the_one_before(kafka, topic, opened):
    fill_numbered(kafka.address, topic, partitions=2, count=50)
    opened.assign({0: 0, 1: 0})
    fetched(opened, 1)
    opened.assign({1: 40})
    stretches = fetched(opened, 10)

    assert [record.offset for stretch in stretches for record in stretch.records] == list(range(40, 50))
    assert {stretch.partition for stretch in stretches} == {1}


def test_offsets_leave_out_partitions_and_topics_that_do_not_exist(kafka, topic, opened):
    assert opened.end_offsets([0], LONG) == opened.begin_offsets([0], LONG) == {}
    fill_numbered(kafka.address, topic, partitions=1, count=3)
    wait_until(lambda: opened.end_offsets([0], LONG))

    assert opened.end_offsets([0, 7], LONG) == {0: 3}
    assert opened.begin_offsets([0, 7], LONG) == {0: 0}
    assert opened.end_offsets([], LONG) == {}


def test_headers_that_are_the_same_are_one_mapping():
    cache = HeaderCache()

    assert cache.mapping([]) is cache.mapping(None) is NO_HEADERS
    assert cache.mapping([("a", b"1")]) is cache.mapping([("a", b"1")])
    assert dict(cache.mapping([("a", None)])) == {"a": b""}
