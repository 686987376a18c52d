"""How the processes that a server or a client started stand: told by who starts them, asked by who watches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from prometheus_client.metrics_core import Metric

SILENT_SECONDS = 90.0  # without a sign of life of the thread that starts processes; Flower's commands may take 60
STARTING = "it has not begun yet"


class Standing:
    """What is amiss, and how often each part was started again.

    Args:
        verb: server or client; begins the metrics' names.
        stop: set once the processes are to end.
        parts: names of what is started.
    """

    def __init__(self, verb: str, stop: Event, *parts: str) -> None:
        self._verb = verb
        self._stop = stop
        self.restarts = dict.fromkeys(parts, 0)
        """Times that a part was started again, by name."""
        self._trouble, self._since = STARTING, time.monotonic()
        self._has_begun = False
        self._seen = time.monotonic()

    def at_work(self) -> None:
        """Everything runs."""
        self._has_begun, self._trouble = True, ""

    def amiss(self, trouble: str) -> None:
        """Work stands still, and why."""
        if not self._trouble:
            self._since = time.monotonic()
        self._trouble = trouble

    def restarted(self, part: str) -> None:
        """A part was started again."""
        self.restarts[part] += 1

    def beat(self) -> None:
        """The thread that starts processes is alive."""
        self._seen = time.monotonic()

    @property
    def is_ending(self) -> bool:
        """Whether the processes are to end."""
        return self._stop.is_set()

    @property
    def is_silent(self) -> bool:
        """Whether that thread has not been heard of for too long."""
        return time.monotonic() - self._seen > SILENT_SECONDS

    def unready(self) -> str:
        """Why no work is done now; empty when it is."""
        return "it is draining" if self.is_ending else self._trouble

    def unhealthy(self, stuck_seconds: float) -> str:
        """Why no work was done for so long; empty when it was, and before it began."""
        if self.is_silent:
            return f"nothing was started or looked after for {SILENT_SECONDS:g} s"
        trouble, since = self._trouble, time.monotonic() - self._since
        return f"{trouble}, for {since:.0f} s" if trouble and self._has_begun and since > stuck_seconds else ""

    def metrics(self) -> Iterator[Metric]:
        """The figures of this moment, in Prometheus' names."""
        verb = self._verb
        yield GaugeMetricFamily(f"fedmb_{verb}_up", "1 while the process answers.", value=1)
        about = "1 while all that it needs runs."
        yield GaugeMetricFamily(f"fedmb_{verb}_at_work", about, value=float(not self.unready()))
        family = CounterMetricFamily(f"fedmb_{verb}_restarts", "Times that a part was started again.", labels=["part"])
        for part, count in self.restarts.items():
            family.add_metric([part], count)
        yield family
