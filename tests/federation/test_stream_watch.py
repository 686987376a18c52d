"""A daemon can be watched from its start to its end, and ends in time."""

import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptLog
from fedmb.exit_codes import ExitCode
from fedmb.federation.stream_watch import StreamWatch
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.pump import Pump
from fedmb.replay.stream_ring import StreamRing
from fedmb.telemetry.supervisor import Supervisor

SCHEMA = {"id": Column("int64")}
CODEC = PackedCodec(SCHEMA)
ROOT = Path(__file__).resolve().parents[2]


class Watched:
    """A daemon's parts over a log in memory, its `run` in a thread."""

    def __init__(self, place, records=5, reader=None):
        log = MemoryLog("log")
        with closing(log.writer("rows", 0)) as writer:
            for number in range(records):
                writer.append(CODEC.encode({"id": np.arange(number, number + 4)}))
            writer.append(b"broken")
        self.reader = reader or log.reader("rows", [0])
        self.ring = StreamRing(place / "rows.ring", SCHEMA, self.reader.partitions, max_rows=4096)
        self.stop, self.error = threading.Event(), None
        pump = Pump(self.reader, [CODEC], self.ring, dead_letters=CountedDeadLetters(), flush_seconds=0.05)
        self.watch = StreamWatch(pump, self.ring, self.stop, stuck_seconds=0.3)
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            self.watch.run(Supervisor())
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            self.error = error

    def figures(self):
        registry = CollectorRegistry()
        registry.register(type("Figures", (), {"collect": lambda _: self.watch.figures()})())
        families = list(text_string_to_metric_families(generate_latest(registry).decode()))
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}, families


def until(condition, seconds=10.0):
    deadline, nap = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        nap.wait(0.01)


@pytest.fixture
def watched(tmp_path):
    found = Watched(tmp_path)
    yield found
    found.stop.set()
    if found.thread.ident:
        found.thread.join()
    found.ring.close()


def test_figures_follow_prometheus_conventions(watched):
    watched.thread.start()
    until(lambda: watched.figures()[0].get(("fedmb_stream_rejected_records_total", "DecodeError")) == 1)
    until(lambda: ("fedmb_stream_lag_records", "log", "0", "rows") in watched.figures()[0])

    figures, families = watched.figures()

    assert figures["fedmb_stream_rows_total",] == 20
    assert figures["fedmb_stream_records_total",] == 6
    assert figures["fedmb_stream_lag_records", "log", "0", "rows"] == 0
    assert figures["fedmb_ring_unread_rows",] == 20
    assert figures["fedmb_ring_room_rows",] == figures["fedmb_ring_capacity_rows",] - 20
    assert figures["fedmb_stream_up",] == 1
    for family in families:
        assert family.name.startswith(("fedmb_stream_", "fedmb_ring_"))
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_it_is_ready_while_it_reads_and_not_before_or_after(watched):
    assert watched.watch.unready() == "the pump was not started yet"
    assert watched.watch.unhealthy() == ""

    watched.thread.start()
    until(lambda: not watched.watch.unready())
    watched.stop.set()
    watched.thread.join()

    assert watched.watch.unready() == "the daemon is draining"
    assert watched.error is None


def test_what_ends_the_pump_ends_the_daemon(tmp_path):
    class Damaged:
        def __init__(self, inner):
            self.inner, self.partitions, self.seek = inner, inner.partitions, inner.seek
            self.begin_offsets, self.acknowledge, self.close = inner.begin_offsets, inner.acknowledge, inner.close

        def poll(self, timeout_seconds, max_records):
            raise CorruptLog("a frame must match its checksum; restore it", topic="rows", partition=0, offset=0)

    watched = Watched(tmp_path, reader=Damaged(MemoryLog("log").reader("rows", [0])))
    watched.thread.start()
    watched.thread.join(10)

    assert isinstance(watched.error, CorruptLog)
    assert watched.watch.unhealthy() == "the pump has ended"
    watched.ring.close()


class Hanging:
    """A reader whose `poll` returns only when the reader is closed."""

    def __init__(self, inner):
        self.inner, self.partitions, self.seek = inner, inner.partitions, inner.seek
        self.begin_offsets, self.end_offsets, self.acknowledge = (
            inner.begin_offsets,
            inner.end_offsets,
            inner.acknowledge,
        )
        self.closed = threading.Event()
        self.close = self.closed.set

    def poll(self, timeout_seconds, max_records):
        self.closed.wait()
        return []


def test_a_poll_that_does_not_come_back_is_said_and_given_up(tmp_path):
    watched = Watched(tmp_path, reader=Hanging(MemoryLog("log").reader("rows", [0])))
    watched.thread.start()

    until(lambda: "the pump's thread has not come back for" in watched.watch.unhealthy())
    began = time.monotonic()
    watched.stop.set()
    watched.thread.join()

    assert watched.error is None
    assert time.monotonic() - began < 5
    watched.ring.close()


def test_a_pump_that_hangs_in_its_ring_does_not_keep_its_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_stream_watch import *; "
        "watched = Watched(Path(sys.argv[1])); watched.ring.flush = threading.Event().wait; "
        "threading.Timer(0.5, watched.stop.set).start(); watched.watch.run(Supervisor())"
    )
    here = f"{ROOT}{os.pathsep}{Path(__file__).parent}"

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": here}, check=False, timeout=60
    )

    assert done.returncode == ExitCode.STALLED
