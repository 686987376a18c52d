"""What a Kafka reader does where records are gone or fail their checksum: look again once, then stop or skip."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fedmb.errors import CorruptLog, RecordsGone
from fedmb.ingest.kafka_driver import records_gone
from fedmb.ingest.kafka_session import close_driver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_driver import KafkaDriver
    from fedmb.ingest.kafka_inbox import Inbox
    from fedmb.ingest.kafka_session import KafkaSession

ANSWER_SECONDS = 5.0  # for one question to the broker
PROBE_SECONDS = 0.2  # of one fetch while the end of a bad batch is sought

_log = logging.getLogger(__name__)


class Damage:
    """What was found damaged, and what the connection's `on_gap` and `on_corrupt` make of it.

    Args:
        topic: of the partitions.
        connection: with the policies.
        session: makes further drivers, for finding where a bad batch ends.
    """

    def __init__(self, topic: str, connection: KafkaConnection, session: KafkaSession) -> None:
        self.gaps = 0
        """Places passed by `on_gap=skip`."""
        self.corrupt_batches = 0
        """Batches passed by `on_corrupt=skip`."""
        self._topic = topic
        self._connection = connection
        self._session = session
        self._suspects: dict[int, CorruptLog | RecordsGone] = {}
        self._seen: set[tuple[int, int]] = set()

    def note(self, error: CorruptLog | RecordsGone) -> None:
        """Keep what a fetch raised until there is a driver to look again with."""
        self._suspects[error.partition] = error

    def forget(self, partition: int) -> None:
        """The partition was sought elsewhere."""
        self._suspects.pop(partition, None)

    def settle(self, driver: KafkaDriver, inboxes: Mapping[int, Inbox]) -> None:
        """Decide about what was noted: each inbox goes on where it stands or further on, or has a failure.

        Raises:
            Exception: the broker does not answer; nothing is decided.
        """
        for partition, error in list(self._suspects.items()):
            inbox = inboxes.get(partition)
            if inbox is not None:
                if isinstance(error, RecordsGone):
                    self._settle_gap(driver, partition, inbox)
                else:
                    self._settle_corrupt(driver, partition, inbox, error)
            del self._suspects[partition]

    def _settle_gap(self, driver: KafkaDriver, partition: int, inbox: Inbox) -> None:
        begin = driver.begin_offsets([partition], ANSWER_SECONDS).get(partition, 0)
        end = driver.end_offsets([partition], ANSWER_SECONDS).get(partition, 0)
        if begin <= inbox.offset <= end:
            return  # a leader that had just taken over did not know its own end yet
        if self._connection.on_gap == "stop":
            inbox.failure = records_gone(self._topic, partition, inbox.offset)
            return
        self.gaps += 1
        _log.warning(
            "gap passed topic=%s partition=%d offset=%d goes_on=%d", self._topic, partition, inbox.offset, begin
        )
        inbox.offset = begin

    def _settle_corrupt(self, driver: KafkaDriver, partition: int, inbox: Inbox, error: CorruptLog) -> None:
        place = (partition, error.offset)
        if place not in self._seen:  # the wire or a page of memory may have done it: read it again
            self._seen.add(place)
            return
        end = driver.end_offsets([partition], ANSWER_SECONDS).get(partition, 0)
        if inbox.offset != error.offset and self._bad_batch(partition, inbox.offset, end) != error.offset:
            return  # of a fetch that was on its way when the partition was sought elsewhere
        if self._connection.on_corrupt == "stop":
            inbox.failure = error
            return
        readable = self._next_readable(partition, max(inbox.offset, error.offset), error.offset, end)
        self.corrupt_batches += 1
        _log.warning(
            "corrupt batch passed topic=%s partition=%d offset=%d goes_on=%d",
            self._topic,
            partition,
            error.offset,
            readable,
        )
        inbox.offset = readable

    def _next_readable(self, partition: int, offset: int, base: int, end: int) -> int:
        """The first offset behind the bad batch that begins at `base` and holds `offset`.

        The batch's own header says where it ends, but it may be what is damaged; so the broker is asked, with steps
        that double and then halve.
        """
        inside, step = offset, 1
        while (beyond := min(offset + step, end)) < end and self._bad_batch(partition, beyond, end) == base:
            inside, step = beyond, 2 * step
        while beyond - inside > 1:
            middle = (inside + beyond) // 2
            if self._bad_batch(partition, middle, end) == base:
                inside = middle
            else:
                beyond = middle
        return beyond

    def _bad_batch(self, partition: int, offset: int, end: int) -> int | None:
        """Where the batch that holds `offset` begins if it fails its checksum, else None."""
        driver = self._session.probe()
        try:
            driver.assign({partition: offset})
            deadline = time.monotonic() + ANSWER_SECONDS
            while time.monotonic() < deadline and driver.position(partition) < end:
                if self._session.call(lambda: driver.fetch(PROBE_SECONDS, 1), PROBE_SECONDS):
                    return None
        except CorruptLog as error:
            return error.offset
        finally:
            close_driver(driver)
        return None
