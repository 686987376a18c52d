"""What confluent-kafka's consumer must be told to read as a `KafkaDriver` does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fedmb.ingest.kafka_driver import MONITORED_GROUP, MOST_SILENT_SECONDS, SESSION_SECONDS

if TYPE_CHECKING:
    from fedmb.ingest.kafka_connection import KafkaConnection

REQUEST_SECONDS = 10.0  # a frozen broker's connection is given up after this, and asked for anew
FETCH_WAIT_SECONDS = 0.1  # a fetch waits so long at the broker for a record to come; a seek waits for it to end
METADATA_SECONDS = 1.0  # a topic that does not exist yet is looked for so often

_log = logging.getLogger(__name__)


def consumer_settings(connection: KafkaConnection, *, is_member: bool = False) -> dict[str, object]:
    """Settings of `confluent_kafka.Consumer`; they hold the secrets.

    Raises:
        SettingsError: a file that the connection names cannot be read.
    """
    session_seconds = connection.away_seconds if connection.member else SESSION_SECONDS
    return {
        **connection.confluent(),
        **({"group.instance.id": connection.member} if is_member and connection.member else {}),
        "group.id": connection.group or MONITORED_GROUP,  # the library wants one, and joins only where told to
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(session_seconds * 1000),
        "heartbeat.interval.ms": int(SESSION_SECONDS * 1000 / 5),
        # The library wants it to be no less than the session's.
        "max.poll.interval.ms": int(max(MOST_SILENT_SECONDS, session_seconds) * 1000),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,  # makes `position` pass markers at the end
        "isolation.level": connection.isolation,
        "check.crcs": True,
        "allow.auto.create.topics": False,
        "fetch.max.bytes": connection.fetch_bytes,
        "message.max.bytes": min(connection.fetch_bytes, 1_000_000),  # the library wants it below the other
        "max.partition.fetch.bytes": connection.fetch_bytes,
        "queued.max.messages.kbytes": max(1, connection.fetch_bytes >> 10),
        "fetch.queue.backoff.ms": 2,  # a full queue of so few bytes is empty again soon; the default is a second
        "fetch.wait.max.ms": int(FETCH_WAIT_SECONDS * 1000),
        "fetch.error.backoff.ms": 100,
        "socket.timeout.ms": int(REQUEST_SECONDS * 1000),
        "topic.metadata.refresh.interval.ms": int(METADATA_SECONDS * 1000),
        "on_commit": _log_failure,
    }


def _log_failure(error: object, _partitions: object) -> None:
    if error is not None:
        _log.warning("offsets were not shown to monitors error=%s", error)
