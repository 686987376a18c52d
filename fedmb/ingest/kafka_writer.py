"""Appends to one partition of a Kafka topic, without waiting for each record's acknowledgement.

`append` answers the offset that a record will get: the partition's end when the writer was opened, and one more for
each record. Every acknowledgement is compared with it. A killed writer leaves a first part of what it appended.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from fedmb.errors import AlreadyOwned, FedmbError, RecordsGone, SettingsError, Unreachable
from fedmb.ingest.kafka_cluster import BATCH_TOO_LARGE, TOO_LARGE, refusal
from fedmb.ingest.kafka_diagnosis import cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_outbox import Delivery, KafkaOutbox
    from fedmb.ledger import StreamPartition

LOOK_SECONDS = 0.1  # longest single wait, so that a wait for a broker stays interruptible; and between two looks
LOOK_RECORDS = 64  # records sent between two looks; one for each would cost as much as sending it
BATCH_OVERHEAD = 512  # bytes of a batch of one record beyond its value, headers and names: 61 + 30, and room


class KafkaLogWriter:
    """Appends to one partition; safe to use from several threads.

    After the first failure every call raises it again, and nothing more is sent.

    Args:
        partition: what it writes.
        connection: sets how much is buffered, and for how long.
        outbox: of the partition; closed with the writer.
        end: offset that the first record will get; None where others may write too, and `append` answers -1.
        message_bytes: longest record that the topic takes.
    """

    def __init__(
        self,
        partition: StreamPartition,
        connection: KafkaConnection,
        outbox: KafkaOutbox,
        *,
        end: int | None,
        message_bytes: int,
    ) -> None:
        self.partition = partition
        self._connection = connection
        self._outbox = outbox
        self._first = end
        self._message_bytes = message_bytes
        self._appended = 0
        self._settled = 0
        self._waiting: deque[tuple[int, float]] = deque()  # bytes of a record, and when it was sent
        self._bytes = 0
        self._looked_at = -math.inf
        self._failure: FedmbError | None = None
        self._lock = threading.RLock()
        self._is_open = True

    @property
    def end_offset(self) -> int:
        """Offset that the next record gets; -1 where others may write too."""
        return -1 if self._first is None else self._first + self._appended

    def append(self, value: bytes, headers: Mapping[str, bytes] | None = None) -> int:
        """Add a record at the end and answer the offset that it will get; -1 where others may write too.

        Blocks while `buffer_bytes` are not acknowledged. The first record of a writer that is alone waits for its
        acknowledgement, so that another producer is noticed before more is sent.

        Raises:
            AlreadyOwned: another producer writes to this partition.
            RecordsGone: the topic was made anew, or lost records that were acknowledged.
            SettingsError: the record is longer than the topic takes.
            AccessDenied: we may not write to the topic.
            Unreachable: the brokers acknowledged nothing for `delivery_seconds`.
            ValueError: the writer is closed.
        """
        named = headers or {}
        size = len(value) + sum(map(len, named)) + sum(map(len, named.values())) + BATCH_OVERHEAD
        with self._lock:
            self._check(size)
            now = time.monotonic()
            if len(self._waiting) % LOOK_RECORDS == 0 or now - self._looked_at > LOOK_SECONDS:
                self._settle(0.0)
            while self._waiting and self._bytes + size > self._connection.buffer_bytes:
                self._settle(LOOK_SECONDS)
            offset = self.end_offset
            self._outbox.send(bytes(value), named)
            self._appended += 1
            self._waiting.append((size, now))
            self._bytes += size
            if self._first is not None and self._settled == 0:
                self._wait_for_all()
            return offset

    def append_many(self, values: Iterable[bytes], headers: Mapping[str, bytes] | None = None) -> int:
        """Add one record for each value, all with the same headers; answers the first's offset, as `append` does.

        Raises:
            FedmbError: as `append`; the records before it were appended.
        """
        with self._lock:
            first = self.end_offset
            for value in values:
                self.append(value, headers)
            return first

    def flush(self) -> None:
        """Wait until the brokers have acknowledged every record, on all replicas in sync.

        Raises:
            FedmbError: as `append`.
        """
        with self._lock:
            self._check(0)
            self._wait_for_all()

    def close(self) -> None:
        """Flush and close the connection; a second call does nothing, and nor does one after a failure.

        Raises:
            FedmbError: as `append`.
        """
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            try:
                if self._failure is None:
                    self._wait_for_all()
            finally:
                self._outbox.close()

    def _check(self, size: int) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._is_open:
            raise ValueError(f"the writer of {self.partition} is closed; open another one")
        if size > self._message_bytes:
            raise SettingsError(
                f"a record must fit the {self._message_bytes} bytes that {self.partition.topic} takes, got {size}; "
                "put fewer rows into it, or raise max.message.bytes of the topic",
                key="rows_per_record",
            )

    def _wait_for_all(self) -> None:
        while self._waiting:
            self._settle(LOOK_SECONDS)

    def _settle(self, timeout_seconds: float) -> None:
        """Look what became of the records sent, waiting at most so long for the first."""
        self._looked_at = time.monotonic()
        for delivery in self._outbox.delivered(timeout_seconds):
            size, _ = self._waiting.popleft()
            self._bytes -= size
            if delivery.error is not None:
                self._fail(self._refused(delivery))
            expected = None if self._first is None else self._first + self._settled
            # Below 0: a repeated request, whose first try the broker has kept and no longer remembers where.
            if expected is not None and 0 <= delivery.offset != expected:
                self._fail(self._misplaced(expected, delivery.offset))
            self._settled += 1
        if self._waiting and time.monotonic() - self._waiting[0][1] > self._connection.delivery_seconds:
            self._fail(
                cause(self._connection)
                or Unreachable(
                    f"{self.partition} must acknowledge a record within {self._connection.delivery_seconds:g} s, and "
                    "did not; look whether the topic still exists, with min.insync.replicas in sync"
                )
            )

    def _misplaced(self, expected: int, offset: int) -> FedmbError:
        if offset < expected:
            return RecordsGone(
                f"offsets of a topic must ascend while it is written to, but our record of {self.partition} for offset "
                f"{expected} lies at {offset}: the topic was made anew, or a replica lost records; start again, and "
                "let readers begin anew",
                topic=self.partition.topic,
                partition=self.partition.partition,
                offset=offset,
            )
        return AlreadyOwned(
            f"a partition has one writer at a time, but another producer writes {self.partition}: our record for "
            f"offset {expected} lies at {offset}; stop the other, or write to another partition"
        )

    def _refused(self, delivery: Delivery) -> FedmbError:
        topic = self.partition.topic
        denied = refusal(self._connection, delivery.code, f"write to {topic}", f"WRITE on the topic {topic}")
        if denied is not None:
            return denied
        if delivery.code in {TOO_LARGE, BATCH_TOO_LARGE}:
            return SettingsError(
                f"a record must fit into what {topic} takes, the brokers say: {delivery.error}; put fewer rows into a "
                "record, or raise max.message.bytes of the topic",
                key="rows_per_record",
            )
        return Unreachable(
            f"{self.partition} must take a record, the brokers say: {delivery.error}; look into their logs, and start "
            "again: what was acknowledged is kept"
        )

    def _fail(self, failure: FedmbError) -> None:
        self._failure = failure
        self._outbox.abandon()
        raise failure
