"""A driver on confluent-kafka (librdkafka), several times faster; the extra fedmb[fast]."""

from __future__ import annotations

import logging
import time
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError
from fedmb.ingest.confluent_settings import consumer_settings
from fedmb.ingest.kafka_driver import (
    Fetched,
    HeaderCache,
    access_denied,
    corrupt_log,
    fetched_of,
    records_gone,
)
from fedmb.ingest.topic import stream_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import ModuleType

    from fedmb.ingest.kafka_connection import KafkaConnection

LEADER_PAUSE_SECONDS = 0.1  # between two questions while a partition's leader is elected

_log = logging.getLogger(__name__)
_second = itemgetter(1)


def confluent_kafka() -> ModuleType:
    """The library.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import confluent_kafka as library
    except ImportError as error:
        raise SettingsError(
            f"driver=confluent needs confluent-kafka, got {error}; pip install 'fedmb[fast]', or choose "
            "driver=kafka-python",
            key="driver",
        ) from error
    return library


class ConfluentDriver:
    """A `KafkaDriver` on `confluent_kafka.Consumer`.

    Args:
        log_id: log of the partitions that records name.
        topic: theirs.
        connection: where and who.
        is_member: read what the connection's group gives.

    Raises:
        SettingsError: the library is not installed.
        confluent_kafka.KafkaException: no broker answers, or not as expected.
    """

    def __init__(self, log_id: str, topic: str, connection: KafkaConnection, *, is_member: bool = False) -> None:
        self._library = confluent_kafka()
        self._log_id = log_id
        self._topic = topic
        self._headers = HeaderCache()
        self._revoked: set[int] = set()
        self._failure: Exception | None = None
        errors = self._library.KafkaError
        self._meaning: dict[int, Callable[[int, int, str], Exception]] = {
            errors._BAD_MSG: lambda *found: corrupt_log(topic, *found),  # noqa: SLF001  # librdkafka's own codes
            errors._AUTO_OFFSET_RESET: lambda partition, offset, _: records_gone(topic, partition, offset),  # noqa: SLF001
            errors.TOPIC_AUTHORIZATION_FAILED: lambda *found: access_denied(topic, found[-1]),
            errors.GROUP_AUTHORIZATION_FAILED: lambda *found: access_denied(topic, found[-1]),
            errors._AUTHENTICATION: lambda *found: access_denied(topic, found[-1]),  # noqa: SLF001
        }
        # A new topic's leader is not known to every broker at once, nor an old one's just after an election.
        self._moving = {errors.NOT_LEADER_FOR_PARTITION, errors.LEADER_NOT_AVAILABLE}
        # A topic or partition may not exist yet.
        self._absent = {errors.UNKNOWN_TOPIC_OR_PART, errors._UNKNOWN_PARTITION, errors._UNKNOWN_TOPIC}  # noqa: SLF001
        self._harmless = {
            *self._absent,
            errors._PARTITION_EOF,  # noqa: SLF001
            errors._TRANSPORT,  # noqa: SLF001  # it connects again by itself
            errors._ALL_BROKERS_DOWN,  # noqa: SLF001
            errors._TIMED_OUT,  # noqa: SLF001
        }
        if not is_member:  # the library looks for the group's coordinator even where nobody joins
            self._harmless.add(errors.GROUP_AUTHORIZATION_FAILED)
        self._consumer: Any = self._library.Consumer(consumer_settings(connection, is_member=is_member))
        try:
            self._look_up(connection.connect_seconds)
        except BaseException:
            self._consumer.close()
            raise
        if is_member:
            self._consumer.subscribe(
                [topic], on_assign=self._park, on_revoke=self._note_revoked, on_lost=self._note_revoked
            )

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions and no others, each from its offset on."""
        self._consumer.assign([self._named(partition, offset) for partition, offset in offsets.items()])

    def assigned(self) -> frozenset[int]:
        """Partitions read at this moment."""
        return frozenset(named.partition for named in self._consumer.assignment())

    def take_revoked(self) -> frozenset[int]:
        """Partitions that the group took away since the last call."""
        revoked = frozenset(self._revoked)
        self._revoked.clear()
        return revoked

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset` of an assigned partition."""
        # The library's own `seek` waits for a fetch to begin, and fails where it has not.
        self._consumer.incremental_unassign([self._named(partition)])
        self._consumer.incremental_assign([self._named(partition, offset)])

    def fetch(self, timeout_seconds: float, max_records: int) -> list[Fetched]:
        """What has come, in offset order within each partition; waits only while there is nothing at all.

        Raises:
            CorruptLog: the next batch of a partition fails its checksum.
            RecordsGone: the broker has no record at a partition's offset.
            AccessDenied: the broker refuses who we are.
            confluent_kafka.KafkaException: anything else.
        """
        if self._failure is not None:
            raise self._failure
        # `consume` with a timeout waits until its list is full, or for the whole timeout.
        first = self._consumer.poll(timeout_seconds)
        if first is None:
            return []
        messages = [first]
        if max_records > 1:
            messages += self._consumer.consume(max_records - 1, 0)
        found = self._sorted(messages)
        if self._failure is not None and not found:
            raise self._failure
        return found

    def position(self, partition: int) -> int:
        """Offset from which the next record is expected."""
        (named,) = self._consumer.position([self._named(partition)])
        return max(0, int(named.offset))

    def begin_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset of the oldest record of each partition that exists.

        Raises:
            confluent_kafka.KafkaException: no answer in time.
        """
        return self._offsets(self._library.OFFSET_BEGINNING, partitions, timeout_seconds)

    def end_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset behind the last record that can be read, of each partition that exists.

        Raises:
            confluent_kafka.KafkaException: no answer in time.
        """
        return self._offsets(self._library.OFFSET_END, partitions, timeout_seconds)

    def pause(self, partitions: Collection[int]) -> None:
        """Give nothing of these partitions until they are resumed."""
        self._consumer.pause([self._named(partition) for partition in partitions])

    def resume(self, partitions: Collection[int]) -> None:
        """Give records of these partitions again."""
        self._consumer.resume([self._named(partition) for partition in partitions])

    def commit(self, offsets: Mapping[int, int], note: str) -> None:
        """Show these offsets to monitors of the group; failures are logged."""
        named = self._library.TopicPartition
        committed = [named(self._topic, partition, offset, note) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=committed, asynchronous=True)
        except self._library.KafkaException as error:
            _log.warning("offsets were not shown to monitors error=%s", error)

    def close(self) -> None:
        """Leave the group and close connections."""
        self._consumer.close()

    def _named(self, partition: int, offset: int = 0) -> Any:  # untyped library
        return self._library.TopicPartition(self._topic, partition, offset)

    def _sorted(self, messages: list[Any]) -> list[Fetched]:  # untyped library
        """Messages by partition as records; what follows a failed one of the same partition is dropped."""
        message = self._library.Message
        if any(map(message.error, messages)):
            messages = self._sound(messages)
        partitions = set(map(message.partition, messages))
        if len(partitions) == 1:
            return [self._fetched(partitions.pop(), messages)]
        found: dict[int, list[Any]] = {partition: [] for partition in sorted(partitions)}
        for partition, run in groupby(messages, key=message.partition):
            found[partition] += run
        return [self._fetched(partition, run) for partition, run in found.items()]

    def _fetched(self, partition: int, messages: list[Any]) -> Fetched:  # untyped library
        name, message = stream_partition(self._log_id, self._topic, partition), self._library.Message
        headers = self._headers.mappings(list(map(message.headers, messages)))
        timestamps = map(_second, map(message.timestamp, messages))
        values = list(map(message.value, messages))
        return fetched_of(name, map(message.offset, messages), timestamps, values, headers)

    def _sound(self, messages: list[Any]) -> list[Any]:  # untyped library
        """Messages that are records and follow no failed one of their partition."""
        sound, failed = [], set()
        for message in messages:
            error = message.error()
            if error is not None and self._note(error, message):
                failed.add(message.partition())
            elif error is None and message.partition() not in failed:
                sound.append(message)
        return sound

    def _note(self, error: Any, message: Any) -> bool:  # untyped library
        """Whether the message is a failure, which is kept for the next fetch."""
        code = error.code()
        if code in self._harmless:
            return False
        if self._failure is None:
            self._failure = self._error(code, message.partition(), message.offset(), error.str())
        return True

    def _error(self, code: int, partition: int, offset: int, finding: str) -> Exception:
        make = self._meaning.get(code)
        return make(partition, offset, finding) if make else self._library.KafkaException(finding)

    def _offsets(self, which: int, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Answers by partition; the library's look-up by time takes its two special offsets as times."""
        if not partitions:
            return {}
        deadline = time.monotonic() + timeout_seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            answers, failures = self._asked([self._named(partition, which) for partition in partitions], left)
            codes = {failure.code() for _, failure in failures}
            if not (codes & self._moving and left > LEADER_PAUSE_SECONDS):
                break
            time.sleep(LEADER_PAUSE_SECONDS)
            self._look_up(left)  # the library asks whom it knows as the leader until it is told of another one
        if not answers and codes <= self._absent:
            self._look_up(timeout_seconds)
        for partition, failure in failures:
            if failure.code() not in self._absent:
                raise self._error(failure.code(), partition, which, failure.str())
        return {answer.partition: answer.offset for answer in answers if answer.error is None and answer.offset >= 0}

    def _asked(self, named: list[Any], seconds: float) -> tuple[list[Any], list[tuple[int, Any]]]:  # untyped library
        """Answers on these partitions and their times, and errors by partition, -1 for that of the whole question."""
        try:
            answers = self._consumer.offsets_for_times(named, timeout=seconds)
        except self._library.KafkaException as error:
            return [], [(-1, error.args[0])]
        return answers, [(answer.partition, answer.error) for answer in answers if answer.error is not None]

    def _look_up(self, timeout_seconds: float) -> None:
        """Wait for a broker; a topic that we may not see looks like one that does not exist everywhere else.

        Raises:
            AccessDenied: we may not see it.
            confluent_kafka.KafkaException: no answer in time.
        """
        error = self._consumer.list_topics(self._topic, timeout=timeout_seconds).topics[self._topic].error
        if error is not None and error.code() == self._library.KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise access_denied(self._topic, error.str())

    def _park(self, consumer: Any, given: list[Any]) -> None:  # untyped library
        consumer.incremental_assign([self._named(named.partition, 0) for named in given])
        consumer.pause(given)

    def _note_revoked(self, consumer: Any, taken: list[Any]) -> None:  # untyped library
        self._revoked.update(named.partition for named in taken)
