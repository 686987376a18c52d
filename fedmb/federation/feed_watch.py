"""A feeder while it runs: its figures and its health, for whoever watches it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from fedmb.ingest.producer import Feeder, StopEvent


class FeedWatch:
    """Asked by a metrics server from its threads.

    Args:
        feeder: what fills the stream.
        stop: set by whoever wants the feeder to end.
        stuck_seconds: how long no record may be appended before that is said; a feeder whose records are due less
            often needs more.
    """

    def __init__(self, feeder: Feeder, stop: StopEvent, *, stuck_seconds: float) -> None:
        self._feeder = feeder
        self._stop = stop
        self._stuck_seconds = stuck_seconds
        self._began = time.monotonic()

    def figures(self) -> Iterator[Metric]:
        """The figures of this moment."""
        now = self._feeder.statistics()
        yield GaugeMetricFamily("fedmb_feed_up", "1 while the feeder answers.", value=1)
        yield CounterMetricFamily("fedmb_feed_records", "Records appended.", value=now.records)
        yield CounterMetricFamily("fedmb_feed_rows", "Rows in them.", value=now.rows)
        yield GaugeMetricFamily("fedmb_feed_end_records", "Records that the stream holds.", value=now.end)

    def unhealthy(self) -> str:
        """Why it does not do its work; empty when it does."""
        since = self._feeder.statistics().appended_at or self._began
        if (silent := time.monotonic() - since) > self._stuck_seconds:
            return f"no record was appended for {silent:.1f} s"
        return ""

    def unready(self) -> str:
        """Why it has not begun to, or no longer does; empty when it is under way."""
        if self._stop.is_set():
            return "it is told to end"
        if self._feeder.statistics().appended_at is None:
            return "no record was appended yet"
        return self.unhealthy()
