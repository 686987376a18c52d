"""`fedmb stream run` and the tools beside it on a real broker, which may die meanwhile."""

import json
import signal
import threading
import time

import numpy as np
import pytest
from poured_stream import PouredStream, asked
from programs import Program, until

from fedmb.exit_codes import ExitCode
from fedmb.federation.stream_feed import StreamFeed, feeder_for
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.stream_url import open_log
from fedmb.replay.ring_source import RingSource
from fedmb.tasks.digits import Digits

STUCK_SECONDS = 1.5


def tool(place, name, *arguments):
    """What `fedmb stream ARGUMENTS` prints."""
    with Program(place, name, "stream", *arguments) as running:
        assert running.ended() == ExitCode.OK, running.log
        return running.output


def test_fed_rows_reach_the_ring_as_they_were_fed(kafka, topic, tmp_path):
    url = f"kafka://{kafka.address}/{topic}"
    reference = f"file:{tmp_path}/log?topic=rows"
    tool(tmp_path, "feed", "feed", url, "--records", "200", "--rows-per-second", "inf")
    feeder_for(StreamFeed(url=reference, records=200, rows_per_second=float("inf"))).run(threading.Event())
    (tmp_path / "schema.json").write_text(tool(tmp_path, "schema", "schema", "fedmb.tasks.digits:Digits"))
    ring = tmp_path / "rows.ring"

    with Program(tmp_path, "daemon", "stream", "run", url, "--ring", ring, "--schema", "schema.json") as running:
        until(lambda: "fedmb_stream_rows_total 1600.0" in asked(running, "/metrics")[1], 60, lambda: running.log)
        lag = json.loads(tool(tmp_path, "lag", "lag", url, "--ledger", ring, "--json"))
        running.send(signal.SIGTERM)
        assert running.ended() == ExitCode.OK

    poured, fed = (
        RingSource(ring, Digits.schema),
        LogSource(open_log(reference).reader("rows", [0]), [PackedCodec(Digits.schema)]),
    )
    found, wanted = poured.take(1600).columns, fed.take(1600).columns
    for source in (poured, fed):
        source.close()
    assert lag["lag"] == 0
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_topic_of_single_rows_is_shown_and_packed(kafka, topic, tmp_path):
    url, packed = f"kafka://{kafka.address}/{topic}", f"kafka://{kafka.address}/{topic}-packed"
    tool(tmp_path, "feed", "feed", url, "--codec", "json", "--records", "50", "--rows-per-second", "inf")

    shown = tool(tmp_path, "inspect", "inspect", url, "--offset", "-2", "--json").splitlines()
    first = tool(tmp_path, "pack", "pack", url, "--to", packed, "--rows", "16", "--to-the-end")
    tool(tmp_path, "more", "feed", url, "--codec", "json", "--records", "60", "--rows-per-second", "inf")
    second = tool(tmp_path, "again", "pack", url, "--to", packed, "--rows", "16", "--to-the-end")

    assert [json.loads(line)["offset"] for line in shown] == [48, 49]
    assert first.startswith("packed 50 rows into 4 records")
    assert second.startswith("packed 10 rows into 1 records")
    assert json.loads(tool(tmp_path, "lag", "lag", packed, "--json"))["lag"] == 5


def test_health_turns_while_the_broker_is_away_and_rows_flow_again(own_kafka, topic, tmp_path):
    stream = PouredStream(tmp_path, 2, f"kafka://{own_kafka.address}/{topic}?create_partitions=2")
    stream.fill(100)
    with stream.daemon("daemon", "--set", f"watching.stuck_seconds={STUCK_SECONDS}") as running:
        until(stream.is_all_there, 60, lambda: running.log)
        before = asked(running, "/healthz")
        own_kafka.kill()
        until(lambda: asked(running, "/healthz")[0] == 503, 60, lambda: running.log)
        reason = asked(running, "/healthz")[1]
        ready = asked(running, "/readyz")[0]
        own_kafka.start()
        until(lambda: asked(running, "/healthz")[0] == 200, 60, lambda: running.log)
        stream.fill(100)
        until(stream.is_all_there, 60, lambda: running.log)
        figures = asked(running, "/metrics")[1]
        running.send(signal.SIGTERM)
        assert running.ended() == ExitCode.OK

    assert before == (200, "ok\n")
    assert ready == 503
    assert any(words in reason for words in ("has not answered for", "has not come back for"))
    assert "fedmb_stream_outages_total 0.0" not in figures
    assert "fedmb_stream_outages_total" in figures
    assert "log reached again" in running.log
    stream.check_once_each_in_order()


@pytest.mark.parametrize("away", ["kill", "freeze"])
def test_it_drains_in_time_though_the_broker_does_not_answer(away, own_kafka, topic, tmp_path):
    stream = PouredStream(tmp_path, 1, f"kafka://{own_kafka.address}/{topic}")
    stream.fill(100)
    with stream.daemon() as running:
        until(stream.is_all_there, 60, lambda: running.log)
        getattr(own_kafka, away)()
        if away == "kill":
            until(lambda: "log unreachable" in running.log, 60, lambda: running.log)
        began = time.monotonic()
        running.send(signal.SIGTERM)
        code = running.ended()
        seconds = time.monotonic() - began
        if away == "freeze":
            own_kafka.thaw()

    assert (code, seconds < 5) == (ExitCode.OK, True), f"{seconds:.1f} s: {running.log}"
    stream.check_once_each_in_order()
