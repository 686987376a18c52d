"""What `fedmb stream run` runs: a process that moves a stream into a ring, each record once, until told to stop."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from fedmb.federation.stream_run import StreamRun, open_dead_letters, open_ring, open_stream, pump_for
from fedmb.federation.stream_watch import StreamWatch, close_in_time
from fedmb.launch.endpoint import is_loopback
from fedmb.telemetry.metrics_server import MetricsServer
from fedmb.telemetry.supervisor import Supervisor

if TYPE_CHECKING:
    import threading

    from fedmb.ingest.pump_tally import PumpStatistics

logger = logging.getLogger("fedmb.streams")


def run(settings: StreamRun, stop: threading.Event) -> PumpStatistics:
    """Move records until `stop` is set, then drain. Change here what a stream goes through on its way."""
    with ExitStack() as open_parts:
        stream = open_stream(settings)
        open_parts.callback(close_in_time, stream.reader.close)
        ring = open_parts.enter_context(closing(open_ring(settings, stream.reader)))
        letters = open_dead_letters(settings, stream)
        open_parts.callback(close_in_time, letters.close)
        pump = pump_for(settings, stream, ring, letters)
        watch = StreamWatch(pump, ring, stop, stuck_seconds=settings.watching.stuck_seconds)
        server = MetricsServer(
            watch.figures,
            unhealthy=watch.unhealthy,
            unready=watch.unready,
            host=settings.watching.host,
            port=settings.watching.port,
        )
        open_parts.callback(server.close)
        if not is_loopback(settings.watching.host):
            logger.warning("metrics open beyond this machine, not encrypted host=%s", settings.watching.host)
        logger.info("daemon ready ring=%s metrics=http://%s/metrics", settings.ring, server.address)
        return watch.run(Supervisor.from_environment(os.environ))
