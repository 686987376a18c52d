"""What `fedmb stream feed` runs: a process that fills a stream until it is told to stop."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from fedmb.federation.feed_watch import FeedWatch
from fedmb.federation.stream_feed import feeder_for
from fedmb.launch.endpoint import is_loopback
from fedmb.telemetry.metrics_server import MetricsServer

if TYPE_CHECKING:
    from fedmb.federation.stream_feed import StreamFeed
    from fedmb.ingest.producer import StopEvent

logger = logging.getLogger("fedmb.streams")


def feed(settings: StreamFeed, stop: StopEvent) -> int:
    """Append records until `stop` is set or the stream is full; answers how many. Change here what the stream holds."""
    feeder, place = feeder_for(settings), settings.watching
    if place is None:
        return feeder.run(stop)
    watch = FeedWatch(feeder, stop, stuck_seconds=place.stuck_seconds)
    server = MetricsServer(
        watch.figures, unhealthy=watch.unhealthy, unready=watch.unready, host=place.host, port=place.port
    )
    if not is_loopback(place.host):
        logger.warning("metrics open beyond this machine, not encrypted host=%s", place.host)
    logger.info("feeder watched metrics=http://%s/metrics", server.address)
    with closing(server):
        return feeder.run(stop)
