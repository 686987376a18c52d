"""A driver on kafka-python, which comes with fedmb.

Deserializers are never passed: one that refuses a record leaves the library's consumer in an endless loop.
"""

from __future__ import annotations

import contextlib
import logging
import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from fedmb.errors import SettingsError
from fedmb.ingest.kafka_driver import (
    MOST_SILENT_SECONDS,
    SESSION_SECONDS,
    Fetched,
    HeaderCache,
    access_denied,
    corrupt_log,
    fetched_of,
    records_gone,
)
from fedmb.ingest.kafka_python_consumer import open_consumer
from fedmb.ingest.topic import stream_partition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from fedmb.ingest.kafka_connection import KafkaConnection

FETCH_WAIT_SECONDS = 0.1  # a fetch waits so long at the broker for a record to come; a seek waits for it to end
JOIN_SECONDS = 5.0  # for every other member to join too; a busy one is kept alive twice a second
CLOSE_SECONDS = 1.0  # for leaving a group

_log = logging.getLogger(__name__)
_place = re.compile(r"partition=(\d+)\) at offset (\d+)")
_offset, _timestamp, _value, _headers = (
    itemgetter(ConsumerRecord._fields.index(name)) for name in ("offset", "timestamp", "value", "headers")
)


class KafkaPythonDriver:
    """A `KafkaDriver` on `kafka.KafkaConsumer`.

    Args:
        log_id: log of the partitions that records name.
        topic: theirs.
        connection: where and who.
        is_member: read what the connection's group gives.

    Raises:
        KafkaError: no broker answers, or not as expected.
    """

    def __init__(self, log_id: str, topic: str, connection: KafkaConnection, *, is_member: bool = False) -> None:
        self._log_id = log_id
        self._topic = topic
        self._connection = connection
        self._revoked: set[int] = set()
        self._headers = HeaderCache()
        self._is_member = is_member
        self._consumer = open_consumer(
            connection,
            # A client with a group waits for the group's coordinator before it fetches anything.
            group_id=connection.group if is_member else None,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            group_instance_id=(connection.member or None) if is_member else None,
            session_timeout_ms=int((connection.away_seconds if connection.member else SESSION_SECONDS) * 1000),
            heartbeat_interval_ms=int(SESSION_SECONDS * 1000 / 5),
            max_poll_interval_ms=int(MOST_SILENT_SECONDS * 1000),
            auto_offset_reset="none",
            isolation_level=connection.isolation,
            check_crcs=True,
            fetch_max_bytes=connection.fetch_bytes,
            max_partition_fetch_bytes=connection.fetch_bytes,
            fetch_max_wait_ms=int(FETCH_WAIT_SECONDS * 1000),
        )
        if is_member:
            self._consumer.subscribe([topic], listener=_Membership(self._consumer, self._revoked))

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions and no others, each from its offset on."""
        self._consumer.assign([self._named(partition) for partition in offsets])
        for partition, offset in offsets.items():
            self._consumer.seek(self._named(partition), offset)

    def assigned(self) -> frozenset[int]:
        """Partitions read at this moment."""
        return frozenset(named.partition for named in self._consumer.assignment())

    def take_revoked(self) -> frozenset[int]:
        """Partitions that the group took away since the last call."""
        revoked = frozenset(self._revoked)
        self._revoked -= revoked
        return revoked

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset` of an assigned partition."""
        self._consumer.seek(self._named(partition), offset)

    def fetch(self, timeout_seconds: float, max_records: int) -> list[Fetched]:
        """What has come, in offset order within each partition; waits only while there is nothing at all.

        Raises:
            CorruptLog: the next batch of a partition fails its checksum.
            RecordsGone: the broker has no record at a partition's offset.
            AccessDenied: the broker refuses who we are.
            SettingsError: records are compressed in a way that needs a package which is not installed.
            KafkaError: anything else.
        """
        self._unblock()
        try:
            if self._is_member:
                self._join()
            polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000), max_records=max_records)
        except CorruptRecordError as error:
            raise corrupt_log(self._topic, *self._place_of(error), str(error)) from error
        except OffsetOutOfRangeError as error:
            ((named, offset),) = error.args[0].items()
            raise records_gone(self._topic, named.partition, offset) from error
        except LogTruncationError as error:
            named = next(iter(error.divergent_offsets))
            raise records_gone(self._topic, named.partition, self.position(named.partition)) from error
        except (AuthorizationError, SaslAuthenticationFailedError) as error:
            raise access_denied(self._topic, str(error)) from error
        except UnsupportedCodecError as error:
            raise SettingsError(
                f"records of {self._topic} must be in a compression that can be read here, got {error}; "
                "pip install 'fedmb[compression]', or choose driver=confluent",
                key="driver",
            ) from error
        return [self._fetched(named.partition, found) for named, found in polled.items()]

    def position(self, partition: int) -> int:
        """Offset from which the next record is expected."""
        return int(self._consumer.position(self._named(partition), timeout_ms=0))

    def begin_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset of the oldest record of each partition that exists.

        Raises:
            KafkaError: no answer in time.
        """
        return self._offsets(self._consumer.beginning_offsets, partitions, timeout_seconds)

    def end_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset behind the last record that can be read, of each partition that exists.

        Raises:
            KafkaError: no answer in time.
        """
        return self._offsets(self._consumer.end_offsets, partitions, timeout_seconds)

    def pause(self, partitions: Collection[int]) -> None:
        """Give nothing of these partitions until they are resumed."""
        self._consumer.pause(*map(self._named, partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Give records of these partitions again."""
        self._consumer.resume(*map(self._named, partitions))

    def commit(self, offsets: Mapping[int, int], note: str) -> None:
        """Show these offsets to monitors of the member's group; failures are logged."""
        committed = {self._named(number): OffsetAndMetadata(offset, note, -1) for number, offset in offsets.items()}
        self._consumer.commit_async(committed, callback=_log_failure)

    def close(self) -> None:
        """Leave the group and close connections."""
        self._consumer.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))

    def _join(self) -> None:
        """Sit out a rebalance: 3.0.12 starts another one when the answer comes between two short polls.

        Where it joins because the topic has changed, it holds the rebalance for done as soon as it has dealt partitions
        to all members: a poll that ends before the broker has confirmed leaves it without any of them, for ever.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001  # no public way
        if coordinator.rejoining and not coordinator.need_rejoin():
            coordinator.request_rejoin()
        if coordinator.need_rejoin():
            coordinator.poll(timeout_ms=int(JOIN_SECONDS * 1000))

    def _unblock(self) -> None:
        """Clear the library's place for the stretch in line when it holds an exhausted one.

        3.0.12 takes that for a live one, and gives nothing more of a partition that was resumed meanwhile.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001  # no public way
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:  # noqa: SLF001
            fetcher._next_partition_records = None  # noqa: SLF001

    def _named(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _fetched(self, partition: int, found: Sequence[Any]) -> Fetched:
        name = stream_partition(self._log_id, self._topic, partition)
        headers = self._headers.mappings(list(map(_headers, found)))
        return fetched_of(name, map(_offset, found), map(_timestamp, found), list(map(_value, found)), headers)

    def _place_of(self, error: CorruptRecordError) -> tuple[int, int]:
        """Partition and offset of a batch that cannot be read."""
        if found := _place.search(str(error)):
            return int(found[1]), int(found[2])
        broken = self._consumer._fetcher._next_partition_records  # noqa: SLF001  # the error does not say where
        if broken is None:
            raise error
        return broken.topic_partition.partition, broken.next_fetch_offset

    def _offsets(self, ask: Any, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:  # untyped
        try:
            existing = [self._named(partition) for partition in self._existing(partitions, timeout_seconds)]
            found = ask(existing, timeout_ms=int(timeout_seconds * 1000)) if existing else {}
        except (AuthorizationError, SaslAuthenticationFailedError) as error:
            raise access_denied(self._topic, str(error)) from error
        return {named.partition: offset for named, offset in found.items()}

    def _existing(self, partitions: Collection[int], timeout_seconds: float) -> set[int]:
        """Those that the broker knows; asking about another would only end with the timeout."""
        cluster, manager = self._consumer._cluster, self._consumer._manager  # noqa: SLF001  # the public way has no timeout
        for attempt in range(2):
            if cluster.partitions_for_topic(self._topic) is None:
                cluster.add_topic(self._topic)
            known = cluster.partitions_for_topic(self._topic) or set()
            if attempt or known >= set(partitions):
                break
            with contextlib.suppress(UnknownTopicOrPartitionError):
                manager.run(manager.wait_for, cluster.request_update(), int(timeout_seconds * 1000))
        return known & set(partitions)


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # untyped library
    """Notes what a group takes and parks what it gives; runs on the library's own thread, so it must not block."""

    def __init__(self, consumer: Any, revoked: set[int]) -> None:
        self._consumer = consumer
        self._revoked = revoked

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Note them; `lost` ends here too."""
        self._revoked.update(named.partition for named in revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause them somewhere, before the library looks for the group's own offsets."""
        for named in assigned:
            self._consumer.seek(named, 0)
            self._consumer.pause(named)


def _log_failure(_offsets: object, answer: object) -> None:
    if isinstance(answer, KafkaError):
        _log.warning("offsets were not shown to monitors error=%r", answer)
