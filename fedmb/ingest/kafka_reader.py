"""Reads partitions of a Kafka topic, whatever happens to the connection: nothing is lost, nothing comes twice.

    until every partition that is known to hold records has its share, or is full:
        fetch; a driver that raises or hangs is given up, and the next one goes on behind what was fetched
    give each partition's share

Where to begin is the caller's business (`seek`, from a ledger); the group's offsets are for monitors and never read.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from fedmb.errors import FedmbError, SettingsError, Unreachable
from fedmb.ingest.kafka_committer import OffsetCommitter
from fedmb.ingest.kafka_damage import ANSWER_SECONDS
from fedmb.ingest.kafka_diagnosis import diagnosed
from fedmb.ingest.kafka_driver_choice import open_driver
from fedmb.ingest.kafka_inflow import Inflow, KafkaReaderStatistics
from fedmb.ingest.kafka_membership import TICK_SECONDS, KeepAlive
from fedmb.ingest.topic import check_topic, stream_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_driver import KafkaDriver
    from fedmb.ingest.log import Record
    from fedmb.ledger import StreamPartition

KNOWN_SECONDS = 0.05  # of one fetch for records that are known to be there
WAIT_SECONDS = 0.25  # of one fetch for whatever comes; `close` waits so long for a poll to end
CLOSE_SECONDS = 2.0  # `close` waits no longer for a poll that hangs inside the library


class KafkaReader:
    """A `LogReader` on a Kafka topic; used by one thread, closed from any.

    What is fetched and not given is bounded: a partition with `fetch_bytes` of it is paused until half is given. The
    library holds as much again.

    With partitions, they are read whoever else does. Without, and with the connection's `group`, the reader is a
    member of that group and reads what the group gives it: `partitions` changes in `refresh` alone, records of a
    partition that the group takes away are dropped at once, and a busy caller stays a member.

    Args:
        log_id: the cluster's id.
        topic: its name; it may not exist yet.
        partitions: their numbers; none to join the connection's group.
        connection: where and who, and the policies.
        opener: makes drivers; tests put broken ones here.

    Raises:
        SettingsError: topic or a partition break Kafka's rules, or there is neither a partition nor a group.
    """

    def __init__(
        self,
        log_id: str,
        topic: str,
        partitions: Sequence[int],
        connection: KafkaConnection,
        *,
        opener: Callable[..., KafkaDriver] = open_driver,
    ) -> None:
        check_topic(topic)
        self._log_id, self._topic = log_id, topic
        names = dict.fromkeys(map(self._name, partitions))
        if not names and not connection.group:
            raise SettingsError("a reader must have 1 partition or more, got none; name one", key="partitions")
        self.partitions: Sequence[StreamPartition] = tuple(names)
        self._connection = connection
        self._is_member = not names
        numbers = [name.partition for name in names]
        self._inflow = Inflow(log_id, topic, numbers, connection, is_member=self._is_member, opener=opener)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._first = 0
        self._committer: OffsetCommitter | None = None
        self._keep_alive = KeepAlive(self._tick) if self._is_member else None

    def seek(self, partition: StreamPartition, offset: int) -> None:
        """Let the next `poll` give `offset` first; keeps what is buffered where it would anyway.

        Raises:
            ValueError: the partition is not assigned to this reader, or the offset is negative.
        """
        if partition not in self.partitions:
            raise ValueError(f"a reader seeks in {', '.join(map(str, self.partitions))}, got {partition}; assign it")
        if offset < 0:
            raise ValueError(f"an offset must be 0 or more, got {offset} for {partition}; 0 is the beginning")
        with self._lock:
            if partition in self.assigned():  # else the group took it away a moment ago
                self._inflow.move(partition.partition, offset)

    def poll(self, timeout_seconds: float, max_records: int = 500) -> list[Record]:
        """The next records, in offset order within each partition; empty when none came in time.

        Also empty after some seconds while no broker answers; `statistics().is_connected` tells.

        Raises:
            CorruptLog: the next batch of a partition fails its checksum; raised again until it is sought past it.
            RecordsGone: the broker holds the record at a partition's offset no more; likewise.
            AccessDenied: the brokers refuse this reader, or it them.
            SettingsError: a package or file that the connection needs is missing.
            ValueError: the reader is closed, or `max_records` is not positive.
        """
        if max_records < 1:
            raise ValueError(f"a poll must ask for 1 record or more, got max_records={max_records}")
        began = time.monotonic()
        with self._lock:
            if self._closed.is_set():
                raise ValueError("the reader is closed; open another one")
            self._first += 1
            inflow, is_first = self._inflow, True
            while True:
                driver = inflow.driver()
                if driver is not None and is_first:
                    inflow.learn_ends(driver)
                share = max(1, max_records // max(1, len(inflow.inboxes)))
                self._raise_failure()
                is_lacking = inflow.lacks(share)
                if not is_lacking and (records := self._given(share, max_records)):
                    return records
                now = time.monotonic()
                if is_lacking and now - max(began, inflow.heard_at) > ANSWER_SECONDS:
                    inflow.lose_sight()
                is_awaited = is_lacking and not inflow.is_away
                remaining = max(0.0, began + timeout_seconds - now)
                if self._closed.is_set() or not (remaining or is_awaited or is_first):
                    return []
                self._wait(KNOWN_SECONDS if is_awaited else min(WAIT_SECONDS, remaining))
                is_first = False

    def begin_offsets(self) -> dict[StreamPartition, int]:
        """Offset of the oldest record of each partition, 0 where there is none.

        Raises:
            Unreachable: no broker answers.
            AccessDenied: the brokers refuse this reader, or it them.
        """
        return self._asked(lambda driver, numbers: driver.begin_offsets(numbers, ANSWER_SECONDS))

    def end_offsets(self) -> dict[StreamPartition, int]:
        """Offset behind the last record of each partition that can be read; 0 where it does not exist.

        Raises:
            Unreachable: no broker answers.
            AccessDenied: the brokers refuse this reader, or it them.
        """
        return self._asked(lambda driver, numbers: driver.end_offsets(numbers, ANSWER_SECONDS))

    def acknowledge(self, offsets: Mapping[StreamPartition, int], note: str) -> None:
        """Show these offsets to lag monitors of the connection's group, or of `fedmb`; does not wait for the broker.

        Failures are logged: the next call shows more.
        """
        with self._lock:
            numbers = {name.partition: offset for name, offset in offsets.items() if name in self.partitions}
            driver = self._inflow.session.driver
            if not numbers or self._closed.is_set():
                return
            if not self._is_member:
                self._committer = self._committer or OffsetCommitter(self._topic, self._connection)
                self._committer.commit(numbers, note)
            elif driver is not None:
                driver.commit(numbers, note)

    def assigned(self) -> tuple[StreamPartition, ...]:
        """Partitions that are this reader's at this moment: those of `partitions`, unless its group moved some."""
        driver = self._inflow.session.driver
        if not self._is_member:
            return tuple(self.partitions)
        return tuple(map(self._name, sorted(driver.assigned()))) if driver is not None else ()

    def refresh(self, timeout_seconds: float = 0.0) -> tuple[StreamPartition, ...]:
        """Make `partitions` what the group gives now, and answer them; waits while there is none.

        Each must be sought before it gives anything, also one that came back: this is for the start of a batch source's
        round. Seeking one to where it stands keeps what is buffered.

        Raises:
            AccessDenied: the brokers refuse this reader, or it them.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._lock:
            while self._is_member and not self._closed.is_set():
                self._inflow.driver()
                self._wait(KNOWN_SECONDS)
                if self.assigned() or time.monotonic() >= deadline:
                    break
            if self._is_member:
                self.partitions = self.assigned()
            return tuple(self.partitions)

    def statistics(self) -> KafkaReaderStatistics:
        """A snapshot of the counts; does not wait."""
        return self._inflow.statistics()

    def close(self) -> None:
        """Wake a waiting `poll`, leave the group unless the connection names its member, and close connections."""
        self._closed.set()
        if self._keep_alive is not None:
            self._keep_alive.close()
        if self._committer is not None:
            self._committer.close()
        has_lock = self._lock.acquire(timeout=CLOSE_SECONDS)
        self._inflow.session.close()
        if has_lock:
            self._lock.release()

    def _name(self, number: int) -> StreamPartition:
        return stream_partition(self._log_id, self._topic, number)

    def _wait(self, seconds: float) -> None:
        """Fetch for so long at most, or wait for the connection."""
        session = self._inflow.session
        if session.driver is not None:
            self._inflow.fetch(session.driver, seconds)
        else:
            self._closed.wait(min(seconds, session.pause_seconds))

    def _given(self, share: int, max_records: int) -> list[Record]:
        """Up to `share` records of each partition; which comes first changes from poll to poll."""
        inboxes = list(self._inflow.inboxes.values())
        found: list[Record] = []
        for step in range(len(inboxes)):
            inbox = inboxes[(self._first + step) % len(inboxes)]
            found += inbox.take(min(share, max_records - len(found)))
        return found

    def _raise_failure(self) -> None:
        """Raise what stopped a partition, once nothing is left in front of it."""
        for inbox in self._inflow.inboxes.values():
            if inbox.failure is not None and not inbox.num_records:
                raise inbox.failure.with_traceback(None)

    def _asked(self, ask: Callable[[KafkaDriver, Sequence[int]], Mapping[int, int]]) -> dict[StreamPartition, int]:
        with self._lock:
            if self._closed.is_set():
                raise ValueError("the reader is closed; open another one")
            driver, session = self._inflow.driver(), self._inflow.session
            if driver is None:
                raise session.cause or Unreachable("a broker must answer, got none; try again")
            numbers = [name.partition for name in self.partitions]
            try:
                found = session.call(lambda: ask(driver, numbers), ANSWER_SECONDS)
            except FedmbError:
                raise
            except Exception as error:
                raise diagnosed(self._connection, error) from error
            return {name: found.get(name.partition, 0) for name in self.partitions}

    def _tick(self) -> None:
        """Fetch when the owner has not for a while: a member that is silent is thrown out of its group."""
        if time.monotonic() - self._inflow.fetched_at < TICK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            if (driver := self._inflow.driver()) is not None and not self._closed.is_set():
                self._inflow.fetch(driver, 0.0)
        except FedmbError:
            pass  # the owner's next poll meets it too
        finally:
            self._lock.release()
