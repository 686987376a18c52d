"""What `fedmb stream feed` runs: a process that fills a stream until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.federation.stream_feed import StreamFeed, feeder_for

if TYPE_CHECKING:
    from fedmb.ingest.producer import StopEvent


def feed(settings: StreamFeed, stop: StopEvent) -> int:
    """Append records until `stop` is set or the stream is full; answers how many. Change here what the stream holds."""
    return feeder_for(settings).run(stop)
