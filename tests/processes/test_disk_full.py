"""Disks that take no more, under a ring, a log and a run: a clear end, nothing torn, and a restart that goes on.

RLIMIT_FSIZE plays the disk, since it needs no rights: no file of a process may grow beyond so many bytes. Dead letters
on a full disk are in test_stream_daemon.py.
"""

import re
import resource
import signal
from contextlib import closing

import pytest
from poured_stream import PouredStream
from programs import Program, until

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import open_log
from fedmb.settings import load, to_toml
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

RECORDS = 3000
ROUNDS = 6
LONG = {"rounds.count": ROUNDS, "training.steps": 12}
PRIVATE = {**LONG, "streamed.clients": 0}


def fill_up(running, num_bytes):
    """From now on no file of this program grows beyond so many bytes."""
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def test_a_ring_that_does_not_fit_is_refused_and_made_once_there_is_room(tmp_path):
    stream = PouredStream(tmp_path)
    stream.fill(300)
    with stream.daemon("full") as running:
        fill_up(running, 64 << 10)
        assert running.ended() == ExitCode.SETTINGS, running.log
    assert re.search(
        rf"error: a ring must fit on its disk, {stream.ring} needs \d+ bytes: File too large\n", running.log
    )
    assert "hint: make it smaller or free space" in running.log
    assert stream.ring.stat().st_size == 0
    with stream.daemon("freed") as running:
        until(stream.is_all_there, 60, lambda: running.log)

    assert stream.rows() == list(range(300))


def test_a_ring_that_was_made_goes_on_while_the_disk_is_full(tmp_path):
    stream = PouredStream(tmp_path)
    stream.fill(300)
    with stream.daemon("first") as running:
        until(stream.is_all_there, 60, lambda: running.log)
        running.send(signal.SIGTERM)
        assert running.ended() == ExitCode.OK
    stream.fill(300)
    with stream.daemon("full") as running:
        fill_up(running, 4 << 10)
        until(stream.is_all_there, 60, lambda: running.log)

    assert stream.rows() == list(range(600))


def records(url):
    """Values of all records in a log of one partition."""
    with closing(open_log(url).reader("rows", [0])) as reader:
        (end,) = reader.end_offsets().values()
        return [bytes(record.value) for record in records_between(reader, 0, end)]


def test_a_log_that_is_full_is_whole_and_its_feeder_goes_on_where_it_ends(tmp_path):
    def feed(name, log):
        options = ("--rows-per-second", "inf", "--records", RECORDS)
        return Program(tmp_path, name, "stream", "feed", f"file:{tmp_path}/{log}?topic=rows", *options)

    with feed("whole", "whole") as whole, feed("full", "log") as full:
        fill_up(full, 300_000)
        assert full.ended() == ExitCode.DISK, full.log
        assert whole.ended() == ExitCode.OK
    reference, found = records(f"file:{tmp_path}/whole?topic=rows"), records(f"file:{tmp_path}/log?topic=rows")
    segment = tmp_path / "log" / "rows" / "0" / "00000000000000000000.log"
    assert f"error: a disk must take what is stored, got: File too large at {segment}\n" in full.log
    assert "hint: free space or choose another disk, and start again" in full.log
    assert 0 < len(found) < RECORDS
    assert found == reference[: len(found)]
    with feed("freed", "log") as freed:
        assert freed.ended() == ExitCode.OK, freed.log

    assert records(f"file:{tmp_path}/log?topic=rows") == reference


def run_on(path, settings=None):
    """What `fedmb simulate` does in a new directory, and with --resume in one that is there."""
    if settings is None:
        run = RunDirectory.existing(path)
        settings = load(Simulation, file=run.config)
    else:
        run = RunDirectory.create(path, config=to_toml(settings), seed=settings.seed)
    try:
        simulate(settings, run, sinks=lambda done: [JsonLines(run.metrics, after_round=done)])
    finally:
        run.close()
    return checkpoint.generations(path / "checkpoints")


@pytest.mark.parametrize(("explicit", "refused"), [(PRIVATE, "checkpoints/round-"), (LONG, "/log/rows/0/0000")])
def test_a_run_without_room_ends_with_its_last_round_whole_and_goes_on_to_the_same_bits(explicit, refused, tmp_path):
    settings, path = load(Simulation, explicit=explicit), tmp_path / "run"
    whole = run_on(tmp_path / "whole", settings)
    options = [part for key, value in explicit.items() for part in ("--set", f"{key}={value}")]
    with Program(tmp_path, "full", "simulate", "--run-dir", path, *options) as running:
        running.logged("round closed round=3 ")
        streams = [file.stat().st_size for file in path.glob("state/*/log/rows/0/*.log")]
        fill_up(running, max(streams, default=20_000))
        assert running.ended() == ExitCode.DISK, running.log
    (said,) = [line for line in running.log.splitlines() if line.startswith("error: ")]
    kept = checkpoint.generations(path / "checkpoints")
    told = [entry["round"] for _, entry in read_lines(path / "metrics.jsonl")]
    stopped = checkpoint.newest(path / "checkpoints").version

    assert said.startswith("error: a disk must take what is stored, got: File too large at ")
    assert refused in said
    assert 3 <= stopped == kept[-1][0] < ROUNDS
    assert len(list((path / "checkpoints").iterdir())) == len(kept)
    assert told[:stopped] == list(range(1, stopped + 1))
    assert [(version, file.name) for version, file in run_on(path)] == [(version, file.name) for version, file in whole]
    assert [entry["round"] for _, entry in read_lines(path / "metrics.jsonl")] == list(range(1, ROUNDS + 1))
