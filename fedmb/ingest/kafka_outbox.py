"""Records on their way to one partition of a broker, by either library: sent in order, acknowledged by all replicas.

An outbox never gives up by itself and never leaves one record out: after the first that fails, none is sent. How long
to wait is its owner's business.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fedmb.errors import SettingsError
from fedmb.ingest.kafka_diagnosis import diagnosed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ledger import StreamPartition

LINGER_MS = 5  # wait for more records of a batch; a lone record is acknowledged within this and a round trip
BATCH_BYTES = 256 << 10  # larger batches were not faster with either library
ENDLESS_MS = (1 << 31) - 1  # the libraries' own time limits leave records out, so they must never be met
CLOSE_SECONDS = 2.0


class Delivery(NamedTuple):
    """What became of one record."""

    offset: int
    """Where it lies; below 0 when the broker does not say."""
    error: Exception | None
    code: int
    """Kafka's number of the error."""


class KafkaOutbox(Protocol):
    """Sends records to one partition; used by one thread at a time."""

    def send(self, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Take a record; does not wait for anything."""
        ...

    def delivered(self, timeout_seconds: float) -> list[Delivery]:
        """What became of the next records, in the order in which they were sent; waits for one if there is none."""
        ...

    def abandon(self) -> None:
        """Send nothing more; what is in flight may or may not arrive."""
        ...

    def close(self) -> None:
        """Close the connection; takes a few seconds at most."""
        ...


def open_outbox(partition: StreamPartition, connection: KafkaConnection, *, message_bytes: int) -> KafkaOutbox:
    """An outbox of the library that the connection names.

    Args:
        partition: where to.
        connection: how.
        message_bytes: longest batch that the broker takes.

    Raises:
        SettingsError: the library, or one for the compression, is not installed.
        Unreachable: no broker answers.
        AccessDenied: the brokers refuse who we are.
    """
    if connection.driver == "confluent":
        return _ConfluentOutbox(partition, connection, message_bytes)
    return _KafkaPythonOutbox(partition, connection, message_bytes)


class _KafkaPythonOutbox:
    def __init__(self, partition: StreamPartition, connection: KafkaConnection, message_bytes: int) -> None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        self._topic, self._number = partition.topic, partition.partition
        self._sent: deque[Any] = deque()
        self._refused: list[Delivery] = []
        self._exception: type[Exception] = KafkaError
        try:
            self._producer: Any = KafkaProducer(
                **connection.kafka_python(),
                enable_idempotence=True,
                compression_type=None if connection.compression == "none" else connection.compression,
                linger_ms=LINGER_MS,
                batch_size=min(BATCH_BYTES, message_bytes // 2),
                max_request_size=message_bytes,
                delivery_timeout_ms=ENDLESS_MS,
                allow_auto_create_topics=False,
                max_block_ms=int(connection.connect_seconds * 1000),
            )
            self._producer.partitions_for(self._topic)  # `send` would wait for this
        except RuntimeError as error:  # how the library says that a codec is not installed
            raise SettingsError(
                f"compression={connection.compression} must be installed for kafka-python, got {error}; "
                "pip install 'fedmb[compression]', or choose driver=confluent",
                key="compression",
            ) from error
        except KafkaError as error:
            raise diagnosed(connection, error) from error

    def send(self, value: bytes, headers: Mapping[str, bytes]) -> None:
        try:
            sent = self._producer.send(self._topic, value, partition=self._number, headers=list(headers.items()))
        except (
            self._exception
        ) as error:  # one has failed before, and stopped the library; what became of it comes first
            self._refused.append(Delivery(-1, error, 0))
            return
        # Called by the sending thread, before it takes the next batch: nothing follows a record that failed.
        sent.add_errback(self._stop)
        self._sent.append(sent)

    def delivered(self, timeout_seconds: float) -> list[Delivery]:
        if self._sent and timeout_seconds > 0:
            with contextlib.suppress(Exception):  # told below, with its place in the order
                self._sent[0].get(timeout_seconds)
        found = []
        while self._sent and self._sent[0].is_done:
            sent = self._sent.popleft()
            error = sent.exception
            found.append(Delivery(-1 if error else sent.value.offset, error, getattr(error, "errno", None) or 0))
        if not found and not self._sent:
            found, self._refused = self._refused, []
        return found

    def abandon(self) -> None:
        self._stop()

    def close(self) -> None:
        self._stop()
        with contextlib.suppress(Exception):  # of a library that waits for records which will not be sent
            self._producer.close(timeout=CLOSE_SECONDS)

    def _stop(self, _error: BaseException | None = None) -> None:
        # The library's own close sends what is left, or raises and leaves its thread running.
        self._producer._sender.force_close()  # noqa: SLF001  # there is no public way to send no more


class _ConfluentOutbox:
    def __init__(self, partition: StreamPartition, connection: KafkaConnection, message_bytes: int) -> None:
        try:
            from confluent_kafka import KafkaError, KafkaException, Producer
        except ImportError as error:
            raise SettingsError(
                f"driver=confluent must be installed, got {error}; pip install 'fedmb[fast]', or leave driver out",
                key="driver",
            ) from error
        self._topic, self._number = partition.topic, partition.partition
        self._found: list[Delivery] = []
        self._refused: list[Delivery] = []
        self._purged = KafkaError._PURGE_QUEUE  # noqa: SLF001  # how the library spells errors of its own
        self._exception: type[Exception] = KafkaException  # an import for each record would cost as much as sending it
        try:
            self._producer: Any = Producer(  # untyped library
                {
                    **connection.confluent(),
                    "enable.idempotence": True,
                    "enable.gapless.guarantee": True,
                    "compression.type": connection.compression,
                    "linger.ms": LINGER_MS,
                    "batch.size": min(BATCH_BYTES, message_bytes // 2),
                    "message.max.bytes": message_bytes,
                    "message.timeout.ms": 0,  # none
                    "queue.buffering.max.messages": 0,  # no limit: the writer counts bytes
                    "queue.buffering.max.kbytes": ENDLESS_MS,
                }
            )
        except KafkaException as error:
            raise diagnosed(connection, error) from error

    def send(self, value: bytes, headers: Mapping[str, bytes]) -> None:
        try:
            self._producer.produce(
                self._topic,
                value,
                partition=self._number,
                headers=list(headers.items()) or None,
                on_delivery=self._settled,
            )
        except self._exception as error:  # of a record that failed before; what became of that one is told first
            self._refused.append(Delivery(-1, error, error.args[0].code()))

    def delivered(self, timeout_seconds: float) -> list[Delivery]:
        self._serve(0.0)
        if not self._found and timeout_seconds > 0:
            self._serve(timeout_seconds)
        found, self._found = self._found, []
        if not found and not len(self._producer):
            found, self._refused = self._refused, []
        return found

    def abandon(self) -> None:
        self._producer.purge()

    def close(self) -> None:
        self._producer.purge()
        deadline = time.monotonic() + CLOSE_SECONDS
        while len(self._producer) and time.monotonic() < deadline:  # it keeps this object alive until it is told
            self._serve(CLOSE_SECONDS)

    def _serve(self, timeout_seconds: float) -> None:
        # It raises that no more can be sent, once, and says at the next call which records that concerns.
        with contextlib.suppress(self._exception):
            self._producer.poll(timeout_seconds)

    def _settled(self, error: Any, message: Any) -> None:  # objects of an untyped library
        if error is None:
            self._found.append(Delivery(message.offset(), None, 0))
        elif error.code() == self._purged:  # behind a record that failed, which may be told after it
            self._refused.append(Delivery(-1, RuntimeError(error.str()), error.code()))
        else:
            self._found.append(Delivery(-1, RuntimeError(error.str()), error.code()))
