"""A reader's driver through all that happens to it: opened late, watched, given up when it fails, opened again."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from fedmb.errors import AccessDenied, FedmbError, SettingsError
from fedmb.ingest.kafka_diagnosis import diagnosed
from fedmb.ingest.kafka_driver_choice import open_driver
from fedmb.ingest.kafka_watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_driver import KafkaDriver

FIRST_PAUSE_SECONDS = 0.2  # before a driver is opened again
LONGEST_PAUSE_SECONDS = 2.0  # it doubles up to this
REOPEN_SECONDS = 2.0  # for the broker to answer when it did before: a reader must not hang meanwhile
CLOSE_SECONDS = 2.0  # a failed driver that takes longer closes by itself
STALL_FACTOR = 3.0  # a call may take so many times what it was told to

T = TypeVar("T")
_log = logging.getLogger(__name__)


class KafkaSession:
    """One driver at a time.

    Args:
        log_id: log of the partitions that records name.
        topic: theirs.
        connection: where and who.
        is_member: read what the connection's group gives.
        opener: makes drivers; tests put broken ones here.
    """

    def __init__(
        self,
        log_id: str,
        topic: str,
        connection: KafkaConnection,
        *,
        is_member: bool = False,
        opener: Callable[..., KafkaDriver] = open_driver,
    ) -> None:
        self.driver: KafkaDriver | None = None
        """The open one; None before the first and after a failure."""
        self.reconnects = 0
        """Drivers given up for a failure."""
        self.cause: FedmbError | None = None
        """Why there is no driver, where that is known."""
        self._log_id, self._topic, self._connection = log_id, topic, connection
        self._is_member = is_member
        self._opener = opener
        self._watchdog = Watchdog(f"the client of {topic}", connection.stall_seconds)
        self._pause = 0.0
        self._opens_at = 0.0

    @property
    def stalls(self) -> int:
        """Calls that never returned and were ended."""
        return self._watchdog.stalls

    @property
    def pause_seconds(self) -> float:
        """How long to wait before `opened` tries again."""
        return max(0.0, self._opens_at - time.monotonic())

    def opened(self) -> KafkaDriver | None:
        """The driver, opened when there is none and the pause after a failure is over; None when that fails.

        Raises:
            AccessDenied: the brokers refuse who we are, or we them.
            SettingsError: the driver's library or a file of the connection is missing.
        """
        if self.driver is not None or self.pause_seconds > 0:
            return self.driver
        limit = self._connection.connect_seconds
        if self._pause:
            limit = min(limit, REOPEN_SECONDS)
        try:
            self.driver = self.probe(dataclasses.replace(self._connection, connect_seconds=limit), self._is_member)
        except (AccessDenied, SettingsError):
            raise
        except Exception as error:  # whatever a library raises, there is no connection
            self.cause = diagnosed(self._connection, error)
            if isinstance(self.cause, AccessDenied | SettingsError):
                raise self.cause from error
            self._back_off()
            _log.warning("no connection topic=%s retry_seconds=%.1f cause=%s", self._topic, self._pause, self.cause)
            return None
        if self.reconnects:
            _log.info("connection opened again topic=%s reconnects=%d", self._topic, self.reconnects)
        self.cause = None
        return self.driver

    def probe(self, connection: KafkaConnection | None = None, is_member: bool = False) -> KafkaDriver:
        """A further driver, watched while it opens; the caller closes it."""
        used = connection or self._connection
        return self.call(
            lambda: self._opener(self._log_id, self._topic, used, is_member=is_member), used.connect_seconds
        )

    def call(self, function: Callable[[], T], seconds: float) -> T:
        """What `function` answers, which should take `seconds` at most.

        Raises:
            TimeoutError: it never returned, and was ended.
        """
        return self._watchdog.call(function, max(STALL_FACTOR * seconds, self._connection.stall_seconds))

    def worked(self) -> None:
        """The driver has given something: the next failure is a first one."""
        self._pause = 0.0

    def fail(self, error: BaseException) -> None:
        """Give up the driver; a later `opened` makes another one."""
        self.reconnects += 1
        self.cause = error if isinstance(error, FedmbError) else None
        self._back_off()
        _log.warning("connection given up topic=%s retry_seconds=%.1f error=%r", self._topic, self._pause, error)
        self._abandon()

    def close(self) -> None:
        """Close the driver, and end the watchdog."""
        self._abandon()
        self._watchdog.close()

    def _back_off(self) -> None:
        self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), LONGEST_PAUSE_SECONDS)
        self._opens_at = time.monotonic() + self._pause

    def _abandon(self) -> None:
        driver, self.driver = self.driver, None
        if driver is not None:
            close_driver(driver)


def close_driver(driver: KafkaDriver) -> None:
    """Close a driver that may be broken: what it raises is dropped, and what takes too long goes on by itself."""

    def close() -> None:
        with contextlib.suppress(Exception):
            driver.close()

    closing = threading.Thread(target=close, name="fedmb-closing", daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
