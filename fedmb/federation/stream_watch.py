"""The daemon of a stream while it runs: its figures, its health, its end."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedmb.errors import DecodeError
from fedmb.exit_codes import ExitCode
from fedmb.ingest.pump_thread import PumpThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from fedmb.ingest.pump import Pump
    from fedmb.ingest.pump_tally import PumpStatistics
    from fedmb.replay.stream_ring import StreamRing, StreamRingStatistics
    from fedmb.telemetry.supervisor import Supervisor

logger = logging.getLogger(__name__)

STATUS_SECONDS = 5.0  # between two lines for `systemctl status`
LOG_SECONDS = 60.0  # between two lines in the log
# Together within the five seconds that supervisors and people give a process:
DRAIN_SECONDS = 2.0  # for the pump to end by itself; a broker that is frozen holds it up for longer
KEEP_SECONDS = 1.0  # for it to leave the ring alone
CLOSE_SECONDS = 0.7  # for each part that speaks to a broker to say goodbye


class StreamWatch:
    """Starts a pump, watches over it and ends it; asked by a metrics server from other threads.

    Args:
        pump: what moves records.
        ring: where they go; its file is only looked at.
        stop: set by whoever wants the daemon to end.
        stuck_seconds: how long a call or an outage may last before that is said.
    """

    def __init__(
        self,
        pump: Pump,
        ring: StreamRing,
        stop: threading.Event,
        *,
        stuck_seconds: float,
    ) -> None:
        self._pump = pump
        self._ring = ring
        self._stop = stop
        self._stuck_seconds = stuck_seconds
        self._thread = PumpThread(pump, stop)
        self._is_started = False

    def run(self, supervisor: Supervisor) -> PumpStatistics:
        """Pump until told to stop, then drain; a second signal, or a pump that does not end, ends the process.

        Raises:
            FedmbError: what ended the pump.
        """
        self._thread.start()
        self._is_started = True
        supervisor.ready("reading")
        try:
            self._attend(supervisor)
            supervisor.stopping("draining")
            logger.info("daemon draining %s", self._line())
            self._end()
        except KeyboardInterrupt:
            logger.warning("daemon interrupted %s", self._line())
            end_now(ExitCode.INTERRUPTED)
        logger.info("daemon drained %s", self._line())
        return self._pump.statistics()

    def unhealthy(self) -> str:
        """Why rows do not move, empty when they do or nobody sends any."""
        if self._is_started and not self._thread.is_alive:
            return "the pump has ended"
        return self._pump.trouble(self._stuck_seconds)

    def unready(self) -> str:
        """Why the daemon does not take records, empty when it does."""
        if not self._is_started:
            return "the pump was not started yet"
        return "the daemon is draining" if self._stop.is_set() else self.unhealthy()

    def figures(self) -> Iterator[Metric]:
        """The figures of this moment."""
        return figures(self._pump.statistics(), self._ring.statistics())

    def _attend(self, supervisor: Supervisor) -> None:
        """Say how things stand until told to stop."""
        pause = min(supervisor.beat_seconds, STATUS_SECONDS)
        logged = 0.0
        while not self._stop.wait(pause):
            if not self._pump.stuck(self._stuck_seconds):  # a supervisor that hears nothing starts a new process
                supervisor.alive()
            supervisor.status(self.unhealthy() or self._line())
            logged += pause
            if logged >= LOG_SECONDS:
                logged = 0.0
                logger.info("stream read %s", self._line())

    def _end(self) -> None:
        try:
            self._thread.end(DRAIN_SECONDS)
        except TimeoutError:
            if not self._pump.give_up(KEEP_SECONDS):
                # Its rows are in pages of the kernel's; closing what it uses under its hands would be worse.
                logger.exception("pump hangs in its ring seconds=%.1f", DRAIN_SECONDS + KEEP_SECONDS)
                end_now(ExitCode.STALLED)
            logger.warning("pump given up, it waits for the log seconds=%.1f", DRAIN_SECONDS)

    def _line(self) -> str:
        found = self._pump.statistics()
        lag = sum(found.lag.values()) if found.lag else "-"
        rejected = sum(found.rejected.values())
        return f"rows={found.rows} rows_per_second={found.rows_per_second:.0f} lag={lag} rejected={rejected}"


def figures(pump: PumpStatistics, ring: StreamRingStatistics) -> Iterator[Metric]:
    """What a daemon has done and how it stands, in Prometheus' names."""
    for name, about, total in (
        ("rows", "Rows kept by the ring.", pump.rows),
        ("records", "Records read, decodable or not.", pump.records),
        ("bytes", "Bytes of their values.", pump.bytes),
        ("stalls", "Times that the ring had no room.", pump.stalls),
        ("stalled_seconds", "Time spent waiting for room.", pump.stalled_seconds),
        ("outages", "Times that the log did not answer.", pump.outages),
        ("reconnects", "Connections given up for a failure; a library mends others itself.", pump.reconnects),
    ):
        yield CounterMetricFamily(f"fedmb_stream_{name}", about, value=total)
    rejected = CounterMetricFamily("fedmb_stream_rejected_records", "Records set aside.", labels=["error"])
    for error, count in {DecodeError.__name__: 0, **pump.rejected}.items():
        rejected.add_metric([error], count)
    yield rejected
    lag = GaugeMetricFamily(
        "fedmb_stream_lag_records", "Records between ring and end.", labels=["log", "topic", "partition"]
    )
    for (log, topic, partition), records in pump.lag.items():
        lag.add_metric([log, topic, str(partition)], records)
    yield lag
    yield GaugeMetricFamily("fedmb_stream_up", "1 while the daemon answers.", value=1)
    for name, about, number in (
        ("capacity_rows", "Rows that the ring can hold.", ring.capacity),
        ("room_rows", "Rows that fit without overwriting an unread one.", ring.room),
        ("unread_rows", "Rows that no stored model has learnt.", ring.unread),
        ("file_bytes", "Size of the ring's file.", ring.num_bytes),
    ):
        yield GaugeMetricFamily(f"fedmb_ring_{name}", about, value=number)
    yield CounterMetricFamily("fedmb_ring_dropped_rows", "Unread rows that were overwritten.", value=ring.dropped)


def close_in_time(close: Callable[[], None]) -> None:
    """Close what may wait for a broker, which is left to itself after a while: nothing that is kept depends on it."""
    closing = threading.Thread(target=close, name="closing", daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        logger.warning("closing takes long and goes on by itself seconds=%.1f", CLOSE_SECONDS)


def end_now(code: ExitCode) -> None:
    """End this process without waiting for threads that may never end."""
    logging.shutdown()
    os._exit(code)
