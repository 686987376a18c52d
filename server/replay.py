"""What `fedmb replay serve` runs: a process that keeps rows of actors for learners, until told to stop."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fedmb.launch.endpoint import is_loopback
from fedmb.replay.service import ReplayService
from fedmb.replay.service_tables import opened
from fedmb.replay.service_watch import ServiceWatch
from fedmb.telemetry.metrics_server import MetricsServer
from fedmb.telemetry.supervisor import Supervisor

if TYPE_CHECKING:
    import threading

    from fedmb.replay.service_section import ReplayServe

logger = logging.getLogger("fedmb.replay")

SWITCH_SECONDS = 0.0005  # a tenth of Python's own: a batch that is ready does not wait for another client's gather


def run(settings: ReplayServe, stop: threading.Event) -> int:
    """Serve until `stop` is set, then drain; rows in all tables. Change here what a service is made of."""
    sys.setswitchinterval(SWITCH_SECONDS)
    listening = settings.listening()  # first: nothing is opened for a service that may not listen there
    with ExitStack() as open_parts:
        tables = open_parts.enter_context(opened(settings))
        service = ReplayService(
            tables,
            listening,
            max_message_bytes=settings.max_message_bytes,
            max_streams=settings.max_streams,
            share=settings.share_memory,
        )
        watch = ServiceWatch(service, stop, snapshot_seconds=settings.snapshots.seconds)
        metrics = MetricsServer(
            watch.figures,
            unhealthy=watch.unhealthy,
            unready=watch.unready,
            host=settings.watching.host,
            port=settings.watching.port,
        )
        open_parts.callback(metrics.close)
        if not is_loopback(settings.watching.host):
            logger.warning("metrics open beyond this machine, not encrypted host=%s", settings.watching.host)
        logger.info("service ready address=%s metrics=http://%s/metrics", service.address, metrics.address)
        return watch.run(Supervisor.from_environment(os.environ))
