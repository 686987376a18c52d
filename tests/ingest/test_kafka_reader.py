"""Order, gaps, bounds and monitors of a reader on a broker that is there; test_kafka_inflow.py takes it away."""

from __future__ import annotations

import itertools
import time
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka_topics import (
    DRIVERS,
    LONG,
    collected,
    fill,
    fill_in_transactions,
    fill_numbered,
    make_topic,
    offsets,
    places,
    reader,
    wait_until,
)

from fedmb.errors import SettingsError, Unreachable
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_reader import KafkaReader
from fedmb.ingest.turns import Turns


@pytest.mark.parametrize("driver", DRIVERS)
def test_four_partitions_that_were_fully_produced_are_read_in_one_order_in_every_run(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=4, count=400)
    fill(kafka.address, topic, [b"x"] * 100, partition=2)  # a longer one: the others end before it
    orders = []
    for share in (1, 7, 256):
        with closing(reader(kafka.address, topic, range(4), driver=driver)) as source:
            turns, order = Turns(source), []
            while taken := turns.take(100, share):
                order += places(taken)
        orders.append(order)

    assert orders[0] == orders[1] == orders[2]
    assert orders[0][:6] == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1)]
    assert len(set(orders[0])) == 1700


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_partition_that_holds_records_gives_some_without_waiting(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=6, count=5)
    with closing(reader(kafka.address, topic, range(6), driver=driver)) as source:
        assert source.poll(0.0, 60)
        source.poll(0.0, 60)
        for partition in (1, 4):  # after everything was read, too
            fill(kafka.address, topic, [b"x"] * 3, partition=partition)

        assert sorted(places(source.poll(0.0, 12))) == [(1, 5), (1, 6), (4, 5), (4, 6)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_aborted_transactions_and_markers_are_passed_and_hang_nothing(kafka, topic, driver):
    make_topic(kafka.address, topic, partitions=2)
    fill_in_transactions(kafka.address, topic, [(5, True), (3, False), (2, True), (4, False)])
    fill(kafka.address, topic, [b"x"], partition=1)
    with closing(reader(kafka.address, topic, [0, 1], driver=driver)) as source:
        started = time.monotonic()
        records = [record for _ in range(8) for record in source.poll(0.0, 4)]

        assert time.monotonic() - started < LONG / 3
        assert offsets(records) == [0, 1, 2, 3, 4, 10, 11]
        assert all(record.value.startswith(b"kept") for record in records if record.partition.partition == 0)
        assert list(source.end_offsets().values()) == [18, 1]
        fill(kafka.address, topic, [b"after"])
        assert offsets(collected(source, 1)) == [18]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_open_transaction_is_waited_for_and_hides_nothing_behind_it_for_ever(kafka, topic, driver):
    make_topic(kafka.address, topic)
    producer = KafkaProducer(bootstrap_servers=kafka.address, transactional_id=f"open-{topic}")
    with closing(producer), closing(reader(kafka.address, topic, [0], driver=driver)) as source:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"in it")
        producer.flush()
        fill(kafka.address, topic, [b"behind it"])

        assert source.poll(0.3) == []
        producer.commit_transaction()
        assert [bytes(record.value) for record in collected(source, 2)] == [b"in it", b"behind it"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_uncommitted_records_are_read_where_the_connection_says_so(kafka, topic, driver):
    make_topic(kafka.address, topic)
    fill_in_transactions(kafka.address, topic, [(3, False)])
    with closing(reader(kafka.address, topic, [0], driver=driver, isolation="read_uncommitted")) as source:
        assert len(collected(source, 3)) == 3


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_buffered_stays_bounded_whatever_lies_there(kafka, topic, driver):
    most, size, count = 1 << 18, 10_000, 400  # a backlog of 16 times the bound in each partition
    fill_numbered(kafka.address, topic, partitions=2, count=count, size=size)
    with closing(reader(kafka.address, topic, [0, 1], driver=driver, fetch_bytes=most)) as source:
        buffered, paused, records = [], set(), []
        deadline = time.monotonic() + LONG
        while len(records) < 2 * count and time.monotonic() < deadline:
            records += source.poll(0.5, 4)
            buffered.append(source.statistics().buffered_bytes)
            paused.add(source.statistics().paused_partitions)

    # A fetch may bring the bound again when the inbox is just below it.
    assert max(buffered) < 2 * (2 * most + size)
    assert offsets(records, 0) == offsets(records, 1) == list(range(count))
    assert max(paused) > 0
    assert source.statistics().records == 2 * count
    assert source.statistics().bytes == sum(len(record.value) for record in records)


@pytest.mark.parametrize("driver", DRIVERS)
def test_seeks_take_effect_for_records_that_were_buffered_and_fetched_already(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=2, count=300)
    with closing(reader(kafka.address, topic, [0, 1], driver=driver)) as source:
        source.poll(LONG, 10)
        source.seek(source.partitions[0], 250)
        source.seek(source.partitions[1], 3)
        records = collected(source, 50 + 297)

    assert offsets(records, 0) == list(range(250, 300))
    assert offsets(records, 1) == list(range(3, 300))


@pytest.mark.parametrize("driver", DRIVERS)
def test_monitors_see_what_was_acknowledged_and_by_what(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=2, count=3)
    group = f"of-{topic}"
    with closing(reader(kafka.address, topic, [0, 1], driver=driver, group=group)) as source:
        collected(source, 6)
        source.acknowledge({source.partitions[0]: 2, source.partitions[1]: 3}, "version 7")
        source.acknowledge({source.partitions[0]._replace(log="another"): 99}, "of another reader")

        with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
            wait_until(lambda: len(admin.list_group_offsets({group: None})[group]) == 2)
            found = admin.list_group_offsets({group: None})[group]
    assert {place.partition: (at.offset, at.metadata) for place, at in found.items()} == {
        0: (2, "version 7"),
        1: (3, "version 7"),
    }
    assert TopicPartition(topic, 0) in found


@pytest.mark.parametrize("driver", DRIVERS)
def test_offsets_of_a_group_never_decide_where_a_reader_begins(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=1, count=9)
    for _ in range(2):
        with closing(reader(kafka.address, topic, [0], driver=driver, group=f"of-{topic}")) as source:
            assert offsets(collected(source, 9)) == list(range(9))
            source.acknowledge({source.partitions[0]: 9}, "all of it")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_topic_that_does_not_exist_is_waited_for_and_not_made(kafka, topic, driver):
    with closing(reader(kafka.address, topic, [0, 1], driver=driver)) as source:
        assert source.poll(0.3) == []
        assert set(source.begin_offsets().values()) == set(source.end_offsets().values()) == {0}
        with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
            assert topic not in admin.list_topics()
        fill_numbered(kafka.address, topic, partitions=2, count=4)

        assert sorted(places(collected(source, 8))) == list(itertools.product((0, 1), range(4)))


def test_no_broker_is_no_records_and_no_hanging_and_offsets_say_why():
    with closing(reader("127.0.0.1:1", "t", [0], connect_seconds=0.3)) as source:
        started = time.monotonic()
        assert source.poll(0.0) == []
        assert time.monotonic() - started < LONG / 3
        assert not source.statistics().is_connected
        with pytest.raises(Unreachable, match="nothing listens there"):
            source.end_offsets()


def test_a_reader_of_neither_partitions_nor_a_group_is_refused():
    with pytest.raises(SettingsError, match="got none"):
        KafkaReader("here", "t", [], KafkaConnection(servers=("127.0.0.1:1",)))
