"""Offsets for lag monitors, committed beside a kafka-python reader without its waiting for them."""

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

    The reader's own client has no group, because one with a group waits for the group's coordinator before it
    fetches anything, and raises what the coordinator refuses.

    Args:
        connection: where and who; its group, or fedmb's.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._pending: dict[object, object] = {}
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="fedmb-commits", daemon=True)
        self._thread.start()

    def commit(self, offsets: Mapping[object, object]) -> None:
        """Let these offsets be committed soon, by kafka-python's partition; later ones replace earlier ones."""
        with self._changed:
            self._pending.update(offsets)
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
                offsets, self._pending = self._pending, {}
            if not offsets:
                break
            try:
                if client is None:
                    client = self._client()
                client.commit(offsets, timeout_ms=int(COMMIT_SECONDS * 1000))
            except Exception as error:  # noqa: BLE001  # monitors must not stop what they monitor
                _log.warning("offsets were not shown to monitors error=%r", error)
                _close(client)
                client = None
        _close(client)

    def _client(self) -> Any:  # untyped library
        return open_consumer(self._connection, group_id=self._connection.group or MONITORED_GROUP)


def _close(client: Any) -> None:  # untyped library
    if client is not None:
        with contextlib.suppress(Exception):
            client.close(autocommit=False, timeout_ms=1000)
