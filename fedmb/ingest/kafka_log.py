"""A Kafka cluster as a log: its topics, partitions and offsets are ours.

A partition of a cluster cannot be locked. A writer of ours counts the offsets that it gets, and stops with
`AlreadyOwned` as soon as an acknowledgement shows that another producer has written in between: at its first record,
which it sends alone, or later, with the records that were on their way by then at offsets not meant for them. The other
may be a killed predecessor, whose last request the broker had still to work off. Where this must not happen, let the
brokers' permissions allow one user to write.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.ingest.dead_letter import SUFFIX
from fedmb.ingest.kafka_cluster import KafkaCluster
from fedmb.ingest.kafka_outbox import open_outbox
from fedmb.ingest.kafka_writer import KafkaLogWriter
from fedmb.ingest.topic import check_topic, stream_partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_reader import KafkaReader

logger = logging.getLogger(__name__)

LETTER_BYTES = 64 << 10  # what a dead letter may be longer than its record, by the headers that say where and why


class KafkaLog:
    """Topics of a cluster; holds no connection itself, and travels to other processes by pickling.

    Args:
        connection: where and who.
        id: the cluster's id, which ledgers name.
    """

    def __init__(self, connection: KafkaConnection, *, id: str) -> None:  # noqa: A002  # the protocol's word
        self.connection = connection
        self.id = id

    @classmethod
    def open(cls, connection: KafkaConnection) -> KafkaLog:
        """The log that a cluster is; blocks until a broker answers, `connect_seconds` and two more at most.

        Raises:
            Unreachable: none answers; the message says why.
            AccessDenied: the brokers refuse who we are, or we them.
            SettingsError: a file that the connection names cannot be used.
        """
        if connection.sasl == "PLAIN" and not connection.tls:
            logger.warning("password sent readable servers=%s sasl=PLAIN tls=off", ",".join(connection.servers))
        with closing(KafkaCluster(connection)) as cluster:
            return cls(connection, id=cluster.id())

    def as_member(self, name: str) -> KafkaLog:
        """This log for readers that are the member `name` of the connection's group, one after another.

        The group keeps their partitions while there is none of them, for `away_seconds`.
        """
        return KafkaLog(replace(self.connection, member=name), id=self.id)

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Numbers of the partitions that a topic has, ascending; none while it does not exist.

        Raises:
            SettingsError: the topic breaks Kafka's rules.
            Unreachable: no broker answers.
            AccessDenied: we may not see the topic.
        """
        check_topic(topic)
        with closing(KafkaCluster(self.connection)) as cluster:
            return cluster.partitions(topic)

    def writer(self, topic: str, partition: int, *, exclusive: bool = True) -> KafkaLogWriter:
        """A writer of a partition; the topic is made, with `create_partitions`, when it does not exist.

        Args:
            topic: where to.
            partition: of it.
            exclusive: nobody else may write there while we do, which the offsets show; without, `append` answers -1.

        Raises:
            SettingsError: topic or partition break Kafka's rules, or the topic has no such partition.
            Unreachable: no broker answers.
            AccessDenied: we may not make or see the topic.
        """
        name = stream_partition(self.id, topic, partition)
        with closing(KafkaCluster(self.connection)) as cluster:
            self._provide(cluster, topic, partition)
            end = cluster.end_offset(topic, partition) if exclusive else None
            most = cluster.message_bytes(topic)
        return KafkaLogWriter(
            name, self.connection, open_outbox(name, self.connection, message_bytes=most), end=end, message_bytes=most
        )

    def _provide(self, cluster: KafkaCluster, topic: str, partition: int) -> None:
        """Make the topic where it does not exist; one of dead letters is as wide as the topic that they come from."""
        numbers = cluster.partitions(topic)
        if partition in numbers:
            return
        wanted, of_letters = self.connection.create_partitions, topic.endswith(SUFFIX)
        if of_letters:
            wanted = max(partition + 1, len(cluster.partitions(topic.removesuffix(SUFFIX))))
        if not numbers:
            most = cluster.message_bytes(topic.removesuffix(SUFFIX)) + LETTER_BYTES if of_letters else None
            cluster.create(topic, partitions=wanted, message_bytes=most)
            numbers = cluster.partitions(topic)
        elif of_letters:  # the topic was given more partitions since
            cluster.extend(topic, wanted)
            numbers = cluster.partitions(topic)
        if partition not in numbers:
            raise SettingsError(
                f"a partition must be one of the {len(numbers)} of {topic}, got {partition}; count from 0, or add "
                "partitions with kafka-topics (create_partitions says how many a new topic gets)",
                key="partition",
            )

    def reader(self, topic: str, partitions: Sequence[int]) -> KafkaReader:
        """A reader that starts at offset 0 of each partition; partitions may not exist yet.

        Raises:
            SettingsError: there is no partition, or topic or a partition break Kafka's rules.
        """
        from fedmb.ingest.kafka_reader import KafkaReader  # loads the library that the connection names

        return KafkaReader(self.id, topic, partitions, self.connection)
