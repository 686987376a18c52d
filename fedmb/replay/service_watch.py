"""A replay service while it runs: snapshots when they are due, its figures and health, its end."""

from __future__ import annotations

import logging
import math
import os
import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedmb.errors import FedmbError
from fedmb.exit_codes import ExitCode

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from fedmb.replay.service import ReplayService
    from fedmb.telemetry.supervisor import Supervisor

logger = logging.getLogger(__name__)

STATUS_SECONDS = 5.0  # between two lines for `systemctl status`
LOG_SECONDS = 60.0  # between two lines in the log
COUNTERS = {
    "appended": "Rows ever given to the table.",
    "removed": "Of these, rows that are there no more or never were.",
    "sampled": "Rows drawn.",
    "reprioritized": "Priorities set.",
    "stale": "Priorities that came for a row that was gone.",
}
GAUGES = {"rows": "Rows that can be drawn.", "capacity": "Rows that the table can hold.", "num_bytes": "Bytes of rows."}


class ServiceWatch:
    """Runs a service and ends it; asked by a metrics server from other threads.

    Args:
        service: what serves.
        stop: set by whoever wants it to end.
        snapshot_seconds: time between two snapshots of a table.
    """

    def __init__(self, service: ReplayService, stop: threading.Event, *, snapshot_seconds: float) -> None:
        self._service, self._stop, self._snapshot_seconds = service, stop, snapshot_seconds
        self._is_started = False
        self._failed: dict[str, str] = {}

    def run(self, supervisor: Supervisor) -> int:
        """Serve until told to stop, then drain: end streams, store tables. Rows in all tables at the end.

        Raises:
            OSError: a disk does not take the last snapshot.
        """
        self._service.start()
        self._is_started = True
        supervisor.ready("serving")
        try:
            self._attend(supervisor)
            supervisor.stopping("draining")
            logger.info("service draining %s", self._line())
            self._drain()
        except KeyboardInterrupt:
            logger.warning("service interrupted %s", self._line())
            logging.shutdown()
            os._exit(ExitCode.INTERRUPTED)  # streams are not waited for; what was acknowledged is the kernel's
        logger.info("service drained %s", self._line())
        return sum(map(len, self._service.tables.values()))

    def unhealthy(self) -> str:
        """Why the service does not do its work, empty when it does."""
        return "; ".join(f"table {name} cannot be stored: {why}" for name, why in self._failed.items())

    def unready(self) -> str:
        """Why it does not take requests, empty when it does."""
        if not self._is_started:
            return "the service was not started yet"
        return "the service is draining" if self._stop.is_set() else self.unhealthy()

    def figures(self) -> Iterator[Metric]:
        """The figures of this moment, in Prometheus' names."""
        found = {name: table.statistics() for name, table in self._service.tables.items()}
        for kind, prefix, about in (
            *((CounterMetricFamily, name, about) for name, about in COUNTERS.items()),
            *((GaugeMetricFamily, name, about) for name, about in GAUGES.items()),
        ):
            family = kind(f"fedmb_replay_{prefix.replace('num_', '')}", about, labels=["table"])
            for name, values in found.items():
                family.add_metric([name], values[prefix])
            yield family
        waited = CounterMetricFamily(
            "fedmb_replay_waited_seconds", "Time that the limiter let calls wait.", labels=["table", "side"]
        )
        for name, values in found.items():
            for side in ("insert", "sample") if values["limiter"] else ():
                waited.add_metric([name, side], values["limiter"][side]["seconds"])
        yield waited
        age = GaugeMetricFamily("fedmb_replay_snapshot_age_seconds", "Since the last snapshot.", labels=["table"])
        for name, table in self._service.tables.items():
            if table.snapshot_age is not None:
                age.add_metric([name], table.snapshot_age)
        yield age
        streams = self._service.door.statistics()
        yield GaugeMetricFamily("fedmb_replay_streams", "Streams of clients that are open.", value=streams.streams)
        yield CounterMetricFamily("fedmb_replay_opened_streams", "Streams ever opened.", value=streams.opened)
        yield GaugeMetricFamily("fedmb_replay_up", "1 while the service answers.", value=1)

    def _attend(self, supervisor: Supervisor) -> None:
        """Store tables when it is time, and say how things stand, until told to stop."""
        pause = min(supervisor.beat_seconds, STATUS_SECONDS, self._snapshot_seconds)
        logged = time.monotonic()
        due = {name: logged + self._snapshot_seconds for name, one in self._service.tables.items() if one.is_stored}
        while not self._stop.wait(max(0.0, min(pause, min(due.values(), default=math.inf) - time.monotonic()))):
            supervisor.alive()
            supervisor.status(self.unhealthy() or self._line())
            now = time.monotonic()
            for name in [name for name, when in due.items() if when <= now]:
                self._store(name)
                due[name] = time.monotonic() + self._snapshot_seconds
            if now - logged >= LOG_SECONDS:
                logged = now
                logger.info("service served %s", self._line())

    def _drain(self) -> None:
        self._service.close()
        for name, table in self._service.tables.items():
            if table.is_stored:
                stored = table.snapshot()
                logger.info("table stored name=%s path=%s seconds=%.2f", name, stored["path"], stored["seconds"])

    def _store(self, name: str) -> None:
        try:
            self._service.tables[name].snapshot()
        except (OSError, FedmbError) as error:
            self._failed[name] = str(error)
            logger.exception("table not stored name=%s", name)
        else:
            self._failed.pop(name, None)

    def _line(self) -> str:
        found = [table.statistics() for table in self._service.tables.values()]
        rows, appended, sampled = (sum(one[name] for one in found) for name in ("rows", "appended", "sampled"))
        return f"rows={rows} appended={appended} sampled={sampled} streams={self._service.door.statistics().streams}"
