"""Offsets for lag monitors, committed beside a reader that is no member of their group.

Always by kafka-python: confluent-kafka 2.16 writes a NUL behind the note.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from fedmb.ingest.kafka_driver import MONITORED_GROUP
from fedmb.ingest.kafka_python_consumer import open_consumer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ingest.kafka_connection import KafkaConnection

COMMIT_SECONDS = 5.0  # a broker that takes longer hears of the next offsets instead
CLOSE_SECONDS = 2.0  # what `close` waits for the last offsets

_log = logging.getLogger(__name__)


class OffsetCommitter:
    """Commits the newest offsets from a thread of its own, through a client of its own.

    So a reader neither waits for the group's coordinator nor fails for what that refuses.

    Args:
        topic: of the partitions.
        connection: where and who; its group, or fedmb's.
    """

    def __init__(self, topic: str, connection: KafkaConnection) -> None:
        self._topic = topic
        self._connection = connection
        self._pending: dict[int, tuple[int, str]] = {}
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="fedmb-commits", daemon=True)
        self._thread.start()

    def commit(self, offsets: Mapping[int, int], note: str) -> None:
        """Let these offsets by partition be committed soon, with `note`; later ones replace earlier ones."""
        with self._changed:
            self._pending.update((partition, (offset, note)) for partition, offset in offsets.items())
            self._changed.notify_all()

    def close(self) -> None:
        """Commit what is pending, unless it takes longer than 2 s, and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        client: Any = None  # untyped library
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or not self._is_open)
                pending, self._pending = self._pending, {}
            if not pending:
                break
            try:
                if client is None:
                    client = self._client()
                client.commit(self._named(pending), timeout_ms=int(COMMIT_SECONDS * 1000))
            except Exception as error:  # noqa: BLE001  # monitors must not stop what they monitor
                _log.warning("offsets were not shown to monitors error=%r", error)
                _close(client)
                client = None
        _close(client)

    def _named(self, pending: Mapping[int, tuple[int, str]]) -> dict[Any, Any]:  # untyped library
        from kafka.structs import OffsetAndMetadata, TopicPartition

        return {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, note, -1)
            for partition, (offset, note) in pending.items()
        }

    def _client(self) -> Any:  # untyped library
        return open_consumer(self._connection, group_id=self._connection.group or MONITORED_GROUP)


def _close(client: Any) -> None:  # untyped library
    if client is not None:
        with contextlib.suppress(Exception):
            client.close(autocommit=False, timeout_ms=1000)
