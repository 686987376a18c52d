"""The life of `fedmb stream run` over a log in files: killed, drained, watched, refused, without torch."""

import json
import os
import random
import resource
import signal
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from poured_stream import PouredStream, asked
from programs import ROOT, Program, until

from fedmb.exit_codes import ExitCode
from fedmb.federation.stream_ledger import ledger_at
from fedmb.federation.stream_watch import DRAIN_SECONDS
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ledger import Position

KILLS = int(os.environ.get("FEDMB_KILLS", "10"))
RECORDS, PARTITIONS = 400 * KILLS, 4
LOTS = 10  # that rows come in during each life


@pytest.fixture
def stream(tmp_path):
    return PouredStream(tmp_path)


@pytest.fixture
def far(kafka, topic, tmp_path):
    """A stream of four partitions on a broker."""
    return PouredStream(tmp_path, PARTITIONS, f"kafka://{kafka.address}/{topic}?create_partitions={PARTITIONS}")


@pytest.fixture
def near(tmp_path):
    """A stream of four partitions in files."""
    return PouredStream(tmp_path, PARTITIONS)


@pytest.mark.timeout(300 + 10 * KILLS)
@pytest.mark.soak
@pytest.mark.parametrize("place", ["near", "far"])
def test_killed_again_and_again_it_keeps_each_row_once_in_order(place, request, capsys):
    stream, nap = request.getfixturevalue(place), threading.Event()
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    rows_at_kill = []
    for life in range(KILLS):
        with stream.daemon(f"life-{life}") as running:
            before, dies_at = stream.places(), chance.randrange(LOTS)
            for lot in range(LOTS):
                stream.fill(RECORDS // PARTITIONS // KILLS // LOTS)
                nap.wait(chance.uniform(0.0, 0.05))
                if lot == 0 and chance.random() < 0.7:  # the others fall wherever a start has come to
                    until(lambda before=before: stream.places() > before, 60, lambda running=running: running.log)
                if lot == dies_at:
                    assert running.process.poll() is None, running.log
                    running.send(signal.SIGKILL)
                    running.ended()
        rows_at_kill.append(sum(place.offset for place in stream.places()))
    with stream.daemon("last") as running:
        until(stream.is_all_there, 60, lambda: running.log)
        running.send(signal.SIGTERM)
        assert running.ended() == ExitCode.OK, running.log

    stream.check_once_each_in_order()
    assert len(set(rows_at_kill)) > KILLS // 4, "kills must fall into the work"
    with capsys.disabled():
        print(
            f"\n{place}: {KILLS} kills, seed {seed}, {RECORDS} rows, 0 lost or twice; in the ring then {rows_at_kill}"
        )


def test_sigterm_drains_within_five_seconds(stream):
    stream.fill(500)
    with stream.daemon() as running:
        until(stream.is_all_there, 60, lambda: running.log)
        began = time.monotonic()
        running.send(signal.SIGTERM)

        assert running.ended() == ExitCode.OK
        assert time.monotonic() - began < 5
    assert running.output == f"moved 500 rows of 500 records to {stream.ring}\n"
    assert "daemon drained" in running.log


def test_a_ring_without_room_is_waited_for_and_drained_at_once(stream):
    stream.fill(20_000)
    with stream.daemon("daemon", "--set", "max_bytes=65536") as running:
        until(lambda: "fedmb_stream_stalls_total 1.0" in asked(running, "/metrics")[1], 60, lambda: running.log)
        health = asked(running, "/healthz")
        running.send(signal.SIGTERM)

        assert running.ended() == ExitCode.OK
    found = stream.rows()
    assert health == (200, "ok\n")
    assert found == list(range(len(found)))
    assert 0 < len(found) < 20_000


HANGING = f"""
import runpy, threading
from fedmb.ingest.file_reader import FileLogReader
FileLogReader.poll = lambda *_: threading.Event().wait()
run = runpy.run_path({str(ROOT / "streams" / "daemon.py")!r})["run"]
"""


def test_a_second_signal_ends_it_at_once(stream):
    (stream.place / "app" / "streams").mkdir(parents=True)
    (stream.place / "app" / "streams" / "daemon.py").write_text(HANGING)
    with stream.daemon("daemon", "--app", stream.place / "app") as running:
        running.logged("pump started")
        running.send(signal.SIGTERM)
        running.logged("daemon draining")
        began = time.monotonic()
        running.send(signal.SIGTERM)

        assert running.ended() == ExitCode.INTERRUPTED
        assert time.monotonic() - began < DRAIN_SECONDS


def test_a_supervisor_hears_of_it_from_beginning_to_end(stream, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        heard = []
        with stream.daemon() as running:
            while "WATCHDOG=1" not in heard:
                heard += listener.recv(4096).decode().splitlines()
            running.send(signal.SIGTERM)
            while "STOPPING=1" not in heard:
                heard += listener.recv(4096).decode().splitlines()
            assert running.ended() == ExitCode.OK

    assert heard[0] == "READY=1"
    assert heard.index("WATCHDOG=1") < heard.index("STOPPING=1")
    assert any(line.startswith("STATUS=rows=") for line in heard)


def test_every_line_of_its_log_is_json_where_that_is_asked_for(stream):
    stream.fill(3)
    with stream.daemon("daemon", "--json") as running:
        until(stream.is_all_there, 60, lambda: running.log)
        with stream.daemon("other", "--json") as other:
            assert other.ended() == ExitCode.OWNED
        running.send(signal.SIGTERM)
        running.ended()

    lines = [json.loads(line) for line in running.log.splitlines()]
    assert [line["event"] for line in lines] == ["daemon ready", "pump started", "daemon draining", "daemon drained"]
    assert lines[-1]["fields"]["rows"] == 3
    (refused,) = [json.loads(line) for line in other.log.splitlines()]
    assert refused["fields"]["error"] == "AlreadyOwned"
    assert f"process {running.process.pid} has it" in refused["fields"]["reason"]


def test_with_a_schema_file_it_needs_no_torch(stream):
    def has_torch(running):
        running.logged("daemon ready")
        return "libtorch" in Path(f"/proc/{running.process.pid}/maps").read_text()

    stream.fill(3)
    with stream.daemon() as running:
        without = has_torch(running)
    (stream.place / "torch_task.py").write_text("import torch\nfrom fedmb.tasks.digits import Digits\n")
    told = ["stream", "run", stream.url, "--ring"]
    with Program(stream.place, "digits", *told, stream.place / "digits.ring") as running:
        with_digits = has_torch(running)
    with Program(stream.place, "task", *told, stream.place / "task.ring", "--task", "torch_task:Digits") as running:
        with_task = has_torch(running)

    assert (without, with_task) == (False, True)
    assert not with_digits, "its rows are known without torch"


def test_a_disk_that_takes_no_more_dead_letters_ends_it_and_costs_nothing(stream):
    stream.fill(5)
    for number in range(8):
        stream.writers[0].append(bytes([number]) * 200_000)
    stream.writers[0].flush()
    stream.written[0] += 8
    with stream.daemon("full") as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1_250_000, resource.RLIM_INFINITY))
        assert running.ended() == ExitCode.DISK, running.log
    between = ledger_at(stream.ring)
    with stream.daemon("again") as running:
        until(stream.is_all_there, 60, lambda: running.log)

    letters = FileLog.open(f"{stream.ring}.dead-letters", fsync=FsyncPolicy.never(), create=False)
    with closing(letters.reader("rows.dlq", [0])) as reader:
        kept = [record.headers["fmb-source"].decode().rpartition("@")[2] for record in reader.poll(0.0)]
    assert "error: a disk must take what is stored, got: File too large" in (stream.place / "full.err").read_text()
    assert kept == [str(offset) for offset in range(5, 13)]
    assert all(place <= Position(5 + 6) for place in between.values())
    assert stream.rows() == list(range(5))


def test_too_many_records_that_cannot_be_read_end_it(stream):
    for _ in range(30):
        stream.writers[0].append(b"broken")
    stream.writers[0].flush()
    with stream.daemon() as running:
        assert running.ended() == ExitCode.DATA

    assert "records may be set aside" in running.log
    assert "hint: mend the producer" in running.log
    assert stream.rows() == []
