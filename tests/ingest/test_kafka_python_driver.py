from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import Producer
from kafka.coordinator.base import MemberState
from kafka_topics import LONG, fill_numbered, make_topic

from fedmb.errors import SettingsError
from fedmb.ingest import kafka_python_consumer, kafka_python_driver
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_python_driver import KafkaPythonDriver


def test_a_compression_that_cannot_be_read_here_is_a_package_to_install(kafka, topic, monkeypatch):
    monkeypatch.setattr("kafka.codec.has_zstd", lambda: False)
    make_topic(kafka.address, topic)
    producer = Producer({"bootstrap.servers": kafka.address, "compression.codec": "zstd"})
    producer.produce(topic, b"x" * 1000, partition=0)
    producer.flush(LONG)
    with closing(KafkaPythonDriver("here", topic, KafkaConnection(servers=(kafka.address,)))) as driver:
        driver.assign({0: 0})
        with pytest.raises(SettingsError, match=r"zstd.*fedmb\[compression\]"):
            [driver.fetch(0.2, 9) for _ in range(99)]


def test_checksums_without_the_c_wheel_are_warned_of_once(monkeypatch, caplog):
    monkeypatch.setattr("kafka.record.util.crc32c_c", None)
    kafka_python_consumer.warn_of_slow_checksums.cache_clear()
    for _ in range(3):
        kafka_python_consumer.warn_of_slow_checksums()
    kafka_python_consumer.warn_of_slow_checksums.cache_clear()

    assert [record.message for record in caplog.records if "crc32c" in record.message] == [
        "kafka-python computes checksums in Python, 6 MB/s at most; pip install 'kafka-python[crc32c]'"
    ]


def test_a_resumed_partition_is_read_again_when_the_one_in_line_is_exhausted(kafka, topic):
    """The library forgets it for ever when the place in line holds an exhausted stretch of a paused partition."""
    fill_numbered(kafka.address, topic, partitions=2, count=10, size=1000)
    with closing(KafkaPythonDriver("here", topic, KafkaConnection(servers=(kafka.address,)))) as driver:
        driver.assign({0: 0, 1: 0})
        found = driver.fetch(LONG, 5)
        (first,) = {stretch.partition for stretch in found}
        driver.pause([first])
        others = [record for _ in range(20) for one in driver.fetch(0.05, 5) for record in one.records]
        driver.pause([1 - first])
        driver.resume([first])
        rest = [record.offset for _ in range(20) for one in driver.fetch(0.05, 5) for record in one.records]

    assert len(others) == 10  # and then once more, which is what exhausts its stretch
    assert rest == list(range(5, 10))


def test_a_member_whose_poll_ends_while_it_deals_partitions_gets_its_own(kafka, topic, monkeypatch):
    """The library takes that rebalance for done, and heeds the broker's answer no more."""
    connection = KafkaConnection(servers=(kafka.address,), group=topic, member="one")
    with closing(KafkaPythonDriver("here", topic, connection, is_member=True)) as driver:
        coordinator = driver._consumer._coordinator
        while coordinator.state is not MemberState.STABLE:
            driver.fetch(0.1, 9)
        deal, is_cut = coordinator._perform_assignment, []

        def deal_slowly(*told):
            dealt = deal(*told)
            time.sleep(0.5)  # the library's thread: the poll's time is up before the broker is told
            return dealt

        monkeypatch.setattr(coordinator, "_perform_assignment", deal_slowly)
        monkeypatch.setattr(kafka_python_driver, "JOIN_SECONDS", 0.1)
        make_topic(kafka.address, topic)
        coordinator._cluster.request_update()
        deadline = time.monotonic() + LONG
        while not driver.assigned() and time.monotonic() < deadline:
            driver.fetch(0.05, 9)
            is_cut.append(coordinator.rejoining and not coordinator.need_rejoin())

        assert any(is_cut), "no poll ended in between"
        assert driver.assigned() == {0}
