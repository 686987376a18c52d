from __future__ import annotations

import sys
import time
from contextlib import closing

import pytest
from confluent_kafka import KafkaError, KafkaException
from kafka_topics import LONG, fill, make_topic

from fedmb.errors import SettingsError
from fedmb.ingest.confluent_driver import ConfluentDriver, confluent_kafka
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_driver_choice import open_driver


def test_a_library_that_is_not_installed_is_an_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)

    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[fast\]'"):
        confluent_kafka()
    with pytest.raises(SettingsError, match="driver=kafka-python"):
        open_driver("here", "t", KafkaConnection(servers=("127.0.0.1:1",), driver="confluent"))


def test_a_few_records_are_given_at_once_and_not_when_the_time_is_up(kafka, topic):
    make_topic(kafka.address, topic)
    fill(kafka.address, topic, [b"x"] * 3)
    connection = KafkaConnection(servers=(kafka.address,), driver="confluent")
    with closing(ConfluentDriver("here", topic, connection)) as driver:
        driver.assign({0: 0})
        started = time.monotonic()
        found = driver.fetch(LONG, 1000)

        assert found[0].records[0].offset == 0
        assert time.monotonic() - started < LONG / 3


def test_an_answer_may_be_as_small_as_the_connection_says(kafka, topic):
    make_topic(kafka.address, topic)
    fill(kafka.address, topic, [b"x" * 500] * 20)
    connection = KafkaConnection(servers=(kafka.address,), driver="confluent", fetch_bytes=1024)
    with closing(ConfluentDriver("here", topic, connection)) as driver:
        driver.assign({0: 0})
        count, deadline = 0, time.monotonic() + LONG
        while count < 20 and time.monotonic() < deadline:
            count += sum(len(stretch.records) for stretch in driver.fetch(0.5, 100))

    assert count == 20


class NotTheLeader:
    """A consumer whose broker knows itself as no leader for the first questions, as just after a topic is made."""

    def __init__(self, consumer, count):
        self.consumer, self.left = consumer, count

    def __getattr__(self, name):
        return getattr(self.consumer, name)

    def offsets_for_times(self, named, timeout):
        self.left -= 1
        if self.left < 0:
            return self.consumer.offsets_for_times(named, timeout=timeout)
        raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))


def test_offsets_are_asked_again_while_a_leader_is_elected(kafka, topic):
    make_topic(kafka.address, topic)
    fill(kafka.address, topic, [b"x"] * 3)
    connection = KafkaConnection(servers=(kafka.address,), driver="confluent")
    with closing(ConfluentDriver("here", topic, connection)) as driver:
        driver._consumer = NotTheLeader(driver._consumer, 2)

        assert driver.end_offsets([0], LONG) == {0: 3}

        driver._consumer.left = sys.maxsize
        with pytest.raises(KafkaException, match="Not leader"):
            driver.end_offsets([0], 0.3)
