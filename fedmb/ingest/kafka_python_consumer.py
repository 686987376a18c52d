"""kafka-python's consumer, opened so that nothing of it stays behind when no broker answers."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmb.ingest.kafka_connection import KafkaConnection

REQUEST_SECONDS = 10.0  # a frozen broker's connection is given up after this, and asked for anew

_log = logging.getLogger(__name__)


@functools.cache
def warn_of_slow_checksums() -> None:
    """Log once that the library computes CRC-32C in Python, 25 times slower, where its C wheel is missing."""
    from kafka.record import util

    if util.crc32c_c is None:
        _log.warning("kafka-python computes checksums in Python, 6 MB/s at most; pip install 'kafka-python[crc32c]'")


def open_consumer(connection: KafkaConnection, **settings: object) -> Any:  # untyped library
    """A connected `kafka.KafkaConsumer`; blocks until a broker answers, `connect_seconds` at most.

    Args:
        connection: where and who.
        settings: of the library, beside those of the connection.

    Raises:
        KafkaError: no broker answers, or not as expected.
    """
    from kafka import KafkaConsumer
    from kafka.net.compat import KafkaNetClient

    warn_of_slow_checksums()
    clients: list[Any] = []

    def client(**given: object) -> Any:  # untyped library
        clients.append(KafkaNetClient(**given))
        return clients[-1]

    try:
        consumer = KafkaConsumer(
            **connection.kafka_python(),
            **settings,
            kafka_client=client,
            enable_auto_commit=False,
            request_timeout_ms=int(REQUEST_SECONDS * 1000),
            metrics_enabled=False,
        )
    except BaseException:
        # The library's thread and sockets outlive a constructor that raises, one set for every attempt.
        for one in clients:
            one.close()
        raise
    # The library's own option for this reaches nothing: a reader would make the topics that it waits for.
    consumer._cluster.config["allow_auto_create_topics"] = False  # noqa: SLF001  # no public way
    return consumer
