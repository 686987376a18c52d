"""A feeder that is watched: what it shows while it appends, stands still and ends."""

import threading
import time

from fedmb.federation.feed_watch import FeedWatch
from fedmb.federation.stream_feed import StreamFeed, feeder_for


def watched(url, stop, stuck_seconds=30.0, **settings):
    feeder = feeder_for(StreamFeed(url=url, rows_per_record=4, **settings))
    return feeder, FeedWatch(feeder, stop, stuck_seconds=stuck_seconds)


def figures(watch):
    return {sample.name: sample.value for metric in watch.figures() for sample in metric.samples}


def test_records_are_counted_for_this_run_and_in_all(tmp_path):
    url, stop = f"file://{tmp_path}/log?topic=rows", threading.Event()
    watched(url, stop, records=3, rows_per_second=float("inf"))[0].run(stop)
    feeder, watch = watched(url, stop, records=8, rows_per_second=float("inf"))

    assert watch.unready() == "no record was appended yet"
    feeder.run(stop)
    assert figures(watch) == {
        "fedmb_feed_up": 1,
        "fedmb_feed_records_total": 5,
        "fedmb_feed_rows_total": 20,
        "fedmb_feed_end_records": 8,
    }
    assert watch.unready() == watch.unhealthy() == ""


def test_a_stream_that_takes_nothing_is_told(tmp_path):
    stop = threading.Event()
    feeder, watch = watched(f"file://{tmp_path}/log?topic=rows", stop, stuck_seconds=1e-9, records=1)
    feeder.run(stop)
    deadline = time.monotonic() + 5
    while not watch.unhealthy():
        assert time.monotonic() < deadline

    assert watch.unready().startswith("no record was appended for")


def test_a_feeder_that_is_told_to_end_is_not_ready(tmp_path):
    stop = threading.Event()
    feeder, watch = watched(f"file://{tmp_path}/log?topic=rows", stop, records=1)
    feeder.run(stop)
    stop.set()

    assert watch.unready() == "it is told to end"
    assert watch.unhealthy() == ""
