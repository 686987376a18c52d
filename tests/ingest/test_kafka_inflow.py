"""Nothing is lost and nothing comes twice while a real broker dies, freezes, or its connections are cut."""

from __future__ import annotations

import itertools
import random
import threading
import time
from contextlib import closing, contextmanager

import pytest
from kafka_broker import KafkaBroker, free_port
from kafka_topics import (
    DRIVERS,
    LONG,
    collected,
    fill,
    fill_numbered,
    make_topic,
    offsets,
    places,
    reader,
    wait_until,
)
from tcp_proxy import TcpProxy

from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_driver_choice import open_driver
from fedmb.ingest.kafka_reader import KafkaReader

BACK_SECONDS = 10.0  # a reader has found a broker again so long after it is back


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_killed_broker_is_found_again_and_nothing_is_lost_or_doubled(own_kafka, topic, driver):
    fill_numbered(own_kafka.address, topic, partitions=2, count=500, size=2000)
    with closing(reader(own_kafka.address, topic, [0, 1], driver=driver, fetch_bytes=1 << 16)) as source:
        records = collected(source, 200, max_records=10)
        own_kafka.kill()
        wait_until(lambda: records.extend(source.poll(0.1)) or not source.statistics().is_connected)
        started = time.monotonic()
        assert [source.poll(0.0) for _ in range(3)] == [[]] * 3
        assert time.monotonic() - started < LONG / 2  # the caller lives
        own_kafka.start()
        started = time.monotonic()
        records += collected(source, 1, BACK_SECONDS, max_records=1)
        print(f"driver={driver} back_seconds={time.monotonic() - started:.2f} {source.statistics()}")
        records += collected(source, 1000 - len(records))

        assert offsets(records, 0) == offsets(records, 1) == list(range(500))
        fill(own_kafka.address, topic, [b"after"])
        assert offsets(collected(source, 1)) == [500]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_frozen_broker_lets_the_caller_live_and_is_found_again(own_kafka, topic, driver):
    fill_numbered(own_kafka.address, topic, partitions=2, count=500, size=2000)
    with closing(reader(own_kafka.address, topic, [0, 1], driver=driver, fetch_bytes=1 << 16)) as source:
        records = collected(source, 100, max_records=10)
        own_kafka.freeze()
        wait_until(lambda: records.extend(source.poll(0.1)) or not source.statistics().is_connected)
        own_kafka.thaw()
        started = time.monotonic()
        records += collected(source, 1, BACK_SECONDS, max_records=1)
        print(f"driver={driver} back_seconds={time.monotonic() - started:.2f} {source.statistics()}")
        records += collected(source, 1000 - len(records))

        assert offsets(records, 0) == offsets(records, 1) == list(range(500))
        wait_until(lambda: source.poll(0.1) == [] and source.statistics().is_connected)


@contextmanager
def broker_behind_a_proxy():
    port = free_port()
    with TcpProxy(port) as proxy, KafkaBroker(port=port, advertised=proxy.address):
        yield proxy


@pytest.mark.parametrize("driver", DRIVERS)
def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(topic, driver):
    count, partitions, chance = 400, 3, random.Random(7)
    with broker_behind_a_proxy() as proxy:
        fill_numbered(proxy.address, topic, partitions=partitions, count=count, size=3000)
        before = proxy.cuts
        with closing(reader(proxy.address, topic, range(partitions), driver=driver, fetch_bytes=1 << 15)) as source:
            records, deadline = [], time.monotonic() + 2 * LONG
            while len(records) < partitions * count and time.monotonic() < deadline:
                polled = source.poll(0.2, 30)
                records += polled
                if polled and chance.random() < 0.3:
                    proxy.cut()
            print(f"driver={driver} cuts={proxy.cuts - before} {source.statistics()}")

    assert sorted(places(records)) == list(itertools.product(range(partitions), range(count)))
    assert all(offsets(records, partition) == list(range(count)) for partition in range(partitions))
    assert proxy.cuts - before >= 10


class SpinningDriver:
    """A real driver whose third fetch never returns, as kafka-python's after a record it could not read."""

    def __init__(self, real, spin) -> None:
        self._real = real
        self._spin = spin
        self._fetches = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def fetch(self, timeout_seconds, max_records):
        self._fetches += 1
        while self._spin and self._fetches == 3:
            pass
        return self._real.fetch(timeout_seconds, max_records)


def test_a_fetch_that_never_returns_is_ended_and_reading_goes_on_where_it_was(kafka, topic):
    fill_numbered(kafka.address, topic, partitions=2, count=300, size=500)
    opened = []

    def open_spinning(*args, **options):
        opened.append(SpinningDriver(open_driver(*args, **options), spin=len(opened) < 2))
        return opened[-1]

    connection = KafkaConnection(servers=(kafka.address,), stall_seconds=0.5, fetch_bytes=1 << 14)
    with closing(KafkaReader("here", topic, [0, 1], connection, opener=open_spinning)) as source:
        records = collected(source, 600)

        assert offsets(records, 0) == offsets(records, 1) == list(range(300))
        assert (source.statistics().stalls, source.statistics().reconnects, len(opened)) == (2, 2, 3)


def test_a_partition_that_the_library_forgot_is_read_by_another_connection(kafka, topic, monkeypatch):
    monkeypatch.setattr("fedmb.ingest.kafka_reader.ANSWER_SECONDS", 0.5)
    fill_numbered(kafka.address, topic, partitions=2, count=100)
    opened = []

    class Forgetful(SpinningDriver):
        def fetch(self, timeout_seconds, max_records):
            found = self._real.fetch(timeout_seconds, max_records)
            return [one for one in found if one.partition == 0 or not self._spin]

        def position(self, partition):
            return 0 if self._spin and partition else self._real.position(partition)

    def open_forgetful(*args, **options):
        opened.append(Forgetful(open_driver(*args, **options), spin=not opened))
        return opened[-1]

    connection = KafkaConnection(servers=(kafka.address,))
    with closing(KafkaReader("here", topic, [0, 1], connection, opener=open_forgetful)) as source:
        records = collected(source, 200)

    assert offsets(records, 0) == offsets(records, 1) == list(range(100))
    assert len(opened) == 2


def test_a_reader_is_closed_from_another_thread_while_the_broker_is_frozen(own_kafka, topic):
    make_topic(own_kafka.address, topic)
    source = reader(own_kafka.address, topic, [0])
    assert source.poll(0.0) == []
    own_kafka.freeze()
    waiting = threading.Thread(target=source.poll, args=(LONG,))
    waiting.start()
    source.close()
    waiting.join(LONG)
    own_kafka.thaw()

    assert not waiting.is_alive()
