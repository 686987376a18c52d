"""Topics of a real broker, filled as a test wants them, and readers of them."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_reader import KafkaReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fedmb.ingest.log import Record

DRIVERS = ("kafka-python", "confluent")
LONG = 30.0  # seconds that no test waits for, unless something is broken


def make_topic(address: str, topic: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
    wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs or {})}
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        admin.create_topics({topic: wanted})
        admin.wait_for_topics([topic])


def fill(address: str, topic: str, values: Iterable[bytes], *, partition: int = 0, batch_bytes: int = 16384) -> None:
    with closing(KafkaProducer(bootstrap_servers=address, batch_size=batch_bytes, linger_ms=5)) as producer:
        for value in values:
            producer.send(topic, value, partition=partition)
        producer.flush()


def fill_numbered(address: str, topic: str, *, partitions: int, count: int, size: int = 0) -> None:
    """Make a topic with `count` records in each partition: their number, then zeros up to `size` bytes."""
    make_topic(address, topic, partitions=partitions)
    with closing(KafkaProducer(bootstrap_servers=address, linger_ms=20, batch_size=1 << 17)) as producer:
        for number in range(count):
            for partition in range(partitions):
                producer.send(topic, (b"%d" % number).ljust(size, b"\0"), partition=partition)
        producer.flush()


def fill_in_transactions(address: str, topic: str, groups: Sequence[tuple[int, bool]], *, partition: int = 0) -> None:
    """Write groups of records, each in a transaction of its own that is committed (True) or aborted."""
    with closing(KafkaProducer(bootstrap_servers=address, transactional_id=f"of-{topic}")) as producer:
        producer.init_transactions()
        for count, is_committed in groups:
            producer.begin_transaction()
            for number in range(count):
                producer.send(topic, b"kept-%d" % number if is_committed else b"dropped", partition=partition)
            producer.flush()
            producer.commit_transaction() if is_committed else producer.abort_transaction()


def fill_compacted(address: str, topic: str, count: int) -> None:
    """Write `count` records with few keys, and wait until the broker has compacted some of them away."""
    rolling = {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.01"}
    make_topic(address, topic, configs=rolling)
    place = TopicPartition(topic, 0)
    with (
        closing(KafkaProducer(bootstrap_servers=address)) as producer,
        closing(KafkaConsumer(bootstrap_servers=address)) as consumer,
    ):
        for number in range(count):
            producer.send(topic, b"%d" % number, key=b"%d" % (number % 5))
        producer.flush()

        def is_compacted() -> bool:
            producer.send(topic, b"", key=b"last").get()  # a segment is closed by the record that follows it
            consumer.assign([place])
            consumer.seek(place, 0)
            found = consumer.poll(500, max_records=1).get(place)
            return bool(found) and found[0].offset > 0

        wait_until(is_compacted)


def polled_until(source: KafkaReader, kind: type[Exception], max_records: int = 8) -> tuple[list[Record], Exception]:
    """What a reader gives until it raises `kind`, and that."""
    records: list[Record] = []
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            records += source.poll(1.0, max_records)
        except kind as error:
            return records, error
    raise AssertionError(f"no {kind.__name__} came, but {len(records)} records")


def forget(address: str, topic: str, before: int, *, partition: int = 0) -> None:
    """Delete the records in front of an offset, as retention does."""
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        admin.delete_records({TopicPartition(topic, partition): before})


def make_anew(address: str, topic: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics())
    make_topic(address, topic)


def reader(address: str, topic: str, partitions: Sequence[int], **options: object) -> KafkaReader:
    return KafkaReader("here", topic, partitions, KafkaConnection(servers=(address,), **options))


def collected(source: KafkaReader, count: int, seconds: float = LONG, max_records: int = 500) -> list[Record]:
    """`count` records or a poll's more, polled until they are there."""
    records: list[Record] = []
    deadline = time.monotonic() + seconds
    while len(records) < count and time.monotonic() < deadline:
        records += source.poll(0.5, max_records)
    assert len(records) >= count, f"{len(records)} of {count} records came; {source.statistics()}"
    return records


def places(records: Iterable[Record]) -> list[tuple[int, int]]:
    return [(record.partition.partition, record.offset) for record in records]


def offsets(records: Iterable[Record], partition: int = 0) -> list[int]:
    return [record.offset for record in records if record.partition.partition == partition]


def wait_until(condition: Callable[[], object], seconds: float = LONG) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come"
        time.sleep(0.02)
