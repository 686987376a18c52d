import threading
from contextlib import closing

import pytest
from kafka_broker import CLUSTER_ID

from fedmb.errors import SettingsError
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import StreamPartition


@pytest.fixture
def log(kafka, topic) -> KafkaLog:
    return open_log(f"kafka://{kafka.address}/{topic}?create_partitions=3")


def test_its_id_is_the_clusters(own_kafka):
    assert open_log(f"kafka://{own_kafka.address}/t").id == CLUSTER_ID


def test_a_writer_makes_the_topic_and_a_reader_does_not(log, topic):
    log.reader(topic, [0]).close()
    assert log.partitions(topic) == ()
    with closing(log.writer(topic, 2)) as writer:
        assert writer.partition == StreamPartition(log.id, topic, 2)

    assert log.partitions(topic) == (0, 1, 2)


def test_writers_may_make_a_topic_at_the_same_time(log, topic):
    writers = []
    threads = [threading.Thread(target=lambda n=n: writers.append(log.writer(topic, n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.append(b"x")
        writer.close()

    assert sorted(writer.partition.partition for writer in writers) == [0, 1, 2]


def test_a_partition_that_a_topic_lacks_is_refused(log, topic):
    with pytest.raises(SettingsError, match="one of the 3 of") as caught:
        log.writer(topic, 3)

    assert caught.value.key == "partition"


def test_more_copies_than_brokers_are_refused_with_what_the_cluster_says(kafka, topic):
    log = open_log(f"kafka://{kafka.address}/{topic}?create_replication=30")

    with pytest.raises(SettingsError, match="set create_replication") as caught:
        log.writer(topic, 0)
    assert caught.value.key == "create_replication"
    assert log.partitions(topic) == ()


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_names_follow_kafkas_rules(log, name):
    for ask in (lambda: log.partitions(name), lambda: log.writer(name, 0), lambda: log.reader(name, [0])):
        with pytest.raises(SettingsError, match="topic's name"):
            ask()
