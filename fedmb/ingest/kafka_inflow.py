"""Fills the inboxes of one reader: one fetch at a time, over as many connections as it takes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.errors import AccessDenied, CorruptLog, RecordsGone, SettingsError
from fedmb.ingest.kafka_damage import ANSWER_SECONDS, Damage
from fedmb.ingest.kafka_inbox import Inbox
from fedmb.ingest.kafka_session import KafkaSession

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_driver import KafkaDriver

PAUSE_SECONDS = 2.0  # between two questions that are not urgent, or that a broker did not answer the last time
AWAY_ANSWER_SECONDS = 0.5  # for each of the latter
FIRST_BATCH, LARGEST_BATCH = 64, 1000  # records of one fetch, by their size; more at once cost the collector more

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaReaderStatistics:
    """What a reader has done since it was made, and what it holds now."""

    records: int
    """Records fetched; those read again after a seek back count again."""
    bytes: int
    """Bytes of their values."""
    reconnects: int
    """Connections given up for a failure."""
    stalls: int
    """Calls into the library that never returned and were ended."""
    gaps: int
    """Places where records were gone and `on_gap=skip` went on."""
    corrupt_batches: int
    """Batches that failed their checksum and that `on_corrupt=skip` passed."""
    buffered_records: int
    """Records fetched and not yet given."""
    buffered_bytes: int
    """Bytes of their values."""
    paused_partitions: int
    """Partitions that are full, so that nothing more is fetched of them."""
    is_connected: bool
    """False while no broker answers."""


class Inflow:
    """The inboxes of a reader's partitions, and the connection that fills them; used by one thread at a time.

    Args:
        log_id: the cluster's id.
        topic: its name.
        partitions: their numbers.
        connection: where and who, and the policies.
        is_member: read what the connection's group gives.
        opener: makes drivers.
    """

    def __init__(
        self,
        log_id: str,
        topic: str,
        partitions: Collection[int],
        connection: KafkaConnection,
        *,
        is_member: bool,
        opener: Callable[..., KafkaDriver],
    ) -> None:
        self.inboxes = {number: Inbox(0) for number in partitions}
        self.session = KafkaSession(log_id, topic, connection, is_member=is_member, opener=opener)
        self.heard_at = time.monotonic()
        """When the broker last gave something."""
        self.fetched_at = self.heard_at
        """When it was last asked for records."""
        self.is_away = False
        """The broker does not answer, so that a poll must not wait for what it is known to hold."""
        self._topic = topic
        self._is_member = is_member
        self._max_bytes = connection.fetch_bytes
        self._damage = Damage(topic, connection, self.session)
        self._assigned_by: KafkaDriver | None = None
        self._moved: set[int] = set()
        self._are_ends_old = False
        self._asked_at = self.heard_at
        self._batch = FIRST_BATCH
        self._records = self._bytes = 0

    def move(self, partition: int, offset: int) -> None:
        """Drop what is queued of a partition, and go on at `offset`; nothing to do where it does so already."""
        inbox = self.inboxes.get(partition)
        if inbox is not None and inbox.begins_at(offset):
            return
        self.inboxes[partition] = Inbox(offset)
        self._damage.forget(partition)
        self._moved.add(partition)

    def lacks(self, share: int) -> bool:
        """True while a partition is known to hold records that its inbox, short of `share`, has room for."""
        return any(inbox.lacks(share, self._max_bytes) for inbox in self.inboxes.values())

    def driver(self) -> KafkaDriver | None:
        """The connected driver, reading where the inboxes end; None while there is none.

        Raises:
            AccessDenied: the brokers refuse who we are, or we them.
            SettingsError: a package or file that the connection needs is missing.
        """
        driver = self.session.opened()
        if driver is None or (driver is self._assigned_by and not self._moved):
            return driver
        try:
            if driver is not self._assigned_by:
                self._hear()
                self._are_ends_old = True
                self._damage.settle(driver, self.inboxes)
            self._assign(driver)
        except Exception as error:  # noqa: BLE001  # of the library, whose state nobody knows now
            self._fail(error)
            return None
        self._assigned_by = driver
        return driver

    def learn_ends(self, driver: KafkaDriver) -> None:
        """Ask how far partitions reach of which nothing more is known.

        Where others still have records, at most every two seconds: brokers answer a connection's questions in turn,
        and this one behind a fetch that waits for records.
        """
        exhausted = [number for number, inbox in self.inboxes.items() if inbox.is_exhausted()]
        is_unknown = self._are_ends_old or any(inbox.end is None for inbox in self.inboxes.values())
        is_urgent = is_unknown or len(exhausted) == len(self.inboxes)
        now = time.monotonic()
        if not (exhausted or is_urgent or self.is_away):
            return
        if (self.is_away or not is_urgent) and now - self._asked_at < PAUSE_SECONDS:
            return
        wanted = list(self.inboxes) if self._are_ends_old or self.is_away else exhausted
        self._asked_at = now
        limit = AWAY_ANSWER_SECONDS if self.is_away else ANSWER_SECONDS
        try:
            ends = self.session.call(lambda: driver.end_offsets(wanted, limit), limit)
        except AccessDenied as error:
            self._fail(error)
            raise
        except TimeoutError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # of the library, which connects again by itself
            self.lose_sight(error)
        else:
            for number in wanted:
                self.inboxes[number].end = ends.get(number, 0)
            self._are_ends_old = False
            if self.is_away and self.lacks(1):  # a broker that answers this has the records too: the library is stuck
                self._fail(TimeoutError("the broker answers, but its records do not come"))
            self._hear()

    def fetch(self, driver: KafkaDriver, seconds: float) -> None:
        """Fill inboxes for once; a driver that fails is given up.

        Raises:
            AccessDenied: the brokers refuse who we are.
            SettingsError: records need a package that is missing.
        """
        self.fetched_at = time.monotonic()
        try:
            self._balance(driver)
            fetched = self.session.call(lambda: driver.fetch(seconds, self._batch), seconds)
            for stretch in fetched:
                if (inbox := self.inboxes.get(stretch.partition)) is not None:
                    inbox.put(stretch)
                    self._records += len(stretch.records)
                    self._bytes += stretch.num_bytes
            if self._is_member:
                for number in driver.take_revoked():
                    self.inboxes.pop(number, None)
            self._pass_markers(driver, {stretch.partition for stretch in fetched})
        except (AccessDenied, SettingsError) as error:
            self._fail(error)
            raise
        except (CorruptLog, RecordsGone) as error:
            self._damage.note(error)
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # of the library, whose state nobody knows now
            self._fail(error)
        else:
            if fetched:
                self._hear()
                mean_bytes = sum(stretch.num_bytes for stretch in fetched) // sum(len(one.records) for one in fetched)
                # All that a fetch brought: kafka-python asks for more only once nothing is left of it.
                self._batch = min(max(self._max_bytes // (mean_bytes + 1), 1), LARGEST_BATCH)

    def lose_sight(self, error: Exception | None = None) -> None:
        """The broker owes an answer for too long: what it is known to hold is waited for no more until it gives one."""
        if not self.is_away:
            self.is_away = True
            _log.warning("broker silent topic=%s seconds=%.1f error=%r", self._topic, ANSWER_SECONDS, error)

    def statistics(self) -> KafkaReaderStatistics:
        """A snapshot of the counts."""
        inboxes = list(self.inboxes.values())
        return KafkaReaderStatistics(
            records=self._records,
            bytes=self._bytes,
            reconnects=self.session.reconnects,
            stalls=self.session.stalls,
            gaps=self._damage.gaps,
            corrupt_batches=self._damage.corrupt_batches,
            buffered_records=sum(inbox.num_records for inbox in inboxes),
            buffered_bytes=sum(inbox.num_bytes for inbox in inboxes),
            paused_partitions=sum(inbox.is_paused for inbox in inboxes),
            is_connected=self.session.driver is not None and not self.is_away,
        )

    def _assign(self, driver: KafkaDriver) -> None:
        """Let the driver read where the inboxes end, but for those with a failure."""
        if self._is_member:
            # A new member owns nothing yet; of an old one, only what was sought is read.
            if driver is not self._assigned_by:
                self.inboxes.clear()
            moved = {number: self.inboxes[number].offset for number in self._moved & self.inboxes.keys()}
            for number, offset in moved.items():
                driver.seek(number, offset)
            driver.resume(list(moved))
        else:
            driver.assign({number: inbox.offset for number, inbox in self.inboxes.items()})
            driver.resume(list(self.inboxes))
            for inbox in self.inboxes.values():
                inbox.is_paused = False
            driver.pause([number for number, inbox in self.inboxes.items() if inbox.failure is not None])
        self._moved.clear()

    def _pass_markers(self, driver: KafkaDriver, fetched: Collection[int]) -> None:
        """Learn that what a partition was known to hold was markers, aborted or compacted away."""
        for number, inbox in self.inboxes.items():
            if number in fetched or inbox.end is None or inbox.offset >= inbox.end or inbox.is_paused:
                continue
            position = driver.position(number)
            if position > inbox.offset:
                inbox.offset = position
                self._hear()

    def _balance(self, driver: KafkaDriver) -> None:
        """Before a fetch for others, pause partitions whose inbox is full; resume those that have room again.

        Only then: librdkafka drops what it has fetched of a partition that is paused.
        """
        changed = [
            number for number, inbox in self.inboxes.items() if inbox.is_full(self._max_bytes) != inbox.is_paused
        ]
        for is_full, tell in ((True, driver.pause), (False, driver.resume)):
            if numbers := [number for number in changed if self.inboxes[number].is_paused != is_full]:
                tell(numbers)
        for number in changed:
            self.inboxes[number].is_paused = not self.inboxes[number].is_paused

    def _hear(self) -> None:
        self.heard_at = time.monotonic()
        self.session.worked()
        if self.is_away:
            self.is_away = False
            _log.info("broker answers again topic=%s", self._topic)

    def _fail(self, error: Exception) -> None:
        self._assigned_by = None
        self.session.fail(error)
