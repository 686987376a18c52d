"""A run without end, as real processes: drained, killed at random moments, resumed, and given an end at last.

The number of kills is 5; `make soak` raises it (FEDMB_KILLS).
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
from urllib.parse import quote

import pytest
from programs import PATIENT, Program, until

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.settings import load, to_toml
from fedmb.simulation.population import Population, Simulation
from fedmb.simulation.run import simulate
from fedmb.tasks.digits import Digits
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

KILLS = int(os.environ.get("FEDMB_KILLS", "5"))

pytestmark = pytest.mark.timeout(900 + 10 * KILLS)
ROUNDS = 150  # of the run that is never stopped; those that are killed end before
ROWS_PER_RECORD = 8
SETTINGS = {
    "rounds.count": "forever",
    "training.steps": 4,
    "streamed.rows_per_second": float("inf"),
    "streamed.drift_record": 200,
    "replay.window": 1000,
}

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A run that has not begun and whose streams are far ahead, so that no client is ever without rows by chance."""
    path = tmp_path_factory.mktemp("filled") / "run"
    settings = load(Simulation, explicit=SETTINGS)
    run = RunDirectory.create(path, config=to_toml(settings), seed=0)
    population = Population(settings, Digits(), run.state)
    full = settings.streamed.clients * settings.streamed.lead_rows // ROWS_PER_RECORD
    with population.feeding():
        until(lambda: population.lag() >= full, 60, population.lag)
    population.close()
    run.close()
    return path


def run_on(path, count):
    """What `fedmb simulate --resume` does."""
    run = RunDirectory.existing(path)
    keep_all = {"rounds.count": count, "checkpoints.keep_hours": float("inf")}
    try:
        simulate(
            load(Simulation, file=run.config, explicit=keep_all),
            run,
            sinks=lambda done: [JsonLines(run.metrics, after_round=done)],
        )
    finally:
        run.close()


def finished(path, count):
    process = PROCESSES.Process(target=run_on, args=(path, count))
    process.start()
    process.join(300)
    assert process.exitcode == 0


def version_of(path):
    found = checkpoint.generations(path / "checkpoints")
    return found[-1][0] if found else 0


def assert_learnt_once(path):
    """Every round is told once, and the rows told are those in front of the ledger and those that the model counts."""
    state = checkpoint.newest(path / "checkpoints")
    entries = [entry for _, entry in read_lines(path / "metrics.jsonl")][: state.version]
    told = sum(entry["rows"].get("stream", 0) for entry in entries)

    assert [entry["round"] for entry in entries] == list(range(1, state.version + 1))
    assert told == sum(here.offset * ROWS_PER_RECORD + here.row for here in state.ledger.values())
    assert told == sum(rows.get("stream", 0) for rows in state.learnt.values())


@pytest.mark.soak
def test_killed_anywhere_it_goes_on_to_the_same_bits(filled, tmp_path, capsys):
    whole = tmp_path / "whole"
    shutil.copytree(filled, whole)
    finished(whole, ROUNDS)
    reference = {version: file.name for version, file in checkpoint.generations(whole / "checkpoints")}
    seed = random.SystemRandom().randrange(1 << 32)
    chance, kills, ends = random.Random(seed), 0, []
    while kills < KILLS:
        path = tmp_path / f"run-{len(ends)}"
        shutil.copytree(filled, path)
        while kills < KILLS and version_of(path) < 60:
            process = PROCESSES.Process(target=run_on, args=(path, "forever"))
            process.start()
            process.join(chance.uniform(0.2, 1.2))
            assert process.exitcode is None, f"seed {seed}: a run without end ended"
            process.kill()
            process.join()
            kills += 1
        last = min(version_of(path) + 3, ROUNDS)
        ends.append(last)
        finished(path, last)

        assert_learnt_once(path)
        for version, file in checkpoint.generations(path / "checkpoints")[-3:]:
            assert file.name == reference[version], f"seed {seed}: version {version} differs"
    with capsys.disabled():
        print(f"\n{kills} kills in {len(ends)} runs without end (seed {seed}), ended at {ends}: all bit-identical")


def test_sigterm_drains_resume_goes_on_and_an_end_may_be_given(tmp_path):
    options = ["--rounds", "forever", "--run-dir", "run", "--set", "training.steps=5"]
    with Program(tmp_path, "first", "simulate", *options) as first:
        first.logged("round closed round=5 ")
        first.send(signal.SIGTERM)
        assert first.ended() == ExitCode.OK, first.log
    stopped = version_of(tmp_path / "run")
    with Program(tmp_path, "second", "simulate", "--resume", "run") as second:
        second.logged(f"round closed round={stopped + 3} ")
        second.send(signal.SIGTERM)
        assert second.ended() == ExitCode.OK, second.log
    again = version_of(tmp_path / "run")
    with Program(tmp_path, "third", "simulate", "--resume", "run", "--rounds", again + 2) as third:
        assert third.ended() == ExitCode.OK, third.log
    with Program(tmp_path, "export", "model", "export", "run", "--to", "out/model.safetensors") as export:
        assert export.ended() == ExitCode.OK, export.log
    record = json.loads((tmp_path / "out" / "trained-by.json").read_text())

    assert f"rounds      {stopped} so far, without end" in first.output
    assert "go on with: fedmb simulate --resume run" in first.output
    assert again >= stopped + 3
    assert f"rounds      {again + 2} of {again + 2}" in third.output
    assert_learnt_once(tmp_path / "run")
    for stream in record["streams"]:
        log = FileLog.open(tmp_path / "run/state" / stream["client"] / "log", fsync=FsyncPolicy.never(), create=False)
        reader = log.reader("rows", [0])
        records = [one for _ in range(99) for one in reader.poll(0.0, 1000) if (one.offset, 0) < tuple(stream["to"])]
        reader.close()
        assert stream["offsets"] == len(records)
        assert stream["set_aside"] == []


def test_a_deployed_server_waits_for_news_and_closes_its_round_on_sigterm(tmp_path):
    url = f"file://{quote(str(tmp_path / 'log'))}?topic=rows"
    feed = ["stream", "feed", url, "--rows-per-second", "inf"]
    train = ["--set", "training.steps=4", "--set", "training.sizing.size=16"]
    options = ["--rounds", "forever", "--min-clients", 1, "--run-dir", "run", "--port", 0, *train, *PATIENT]
    with Program(tmp_path, "feed", *feed, "--records", 8) as one:
        assert one.ended() == ExitCode.OK
    with Program(tmp_path, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        with Program(tmp_path, "meter", "client", "--server", address, "--name", "meter", "--source", url) as meter:
            server.logged("nothing new, waiting clients=meter")
            waited_at = version_of(tmp_path / "run")
            with Program(tmp_path, "more", *feed, "--records", 32) as more:
                assert more.ended() == ExitCode.OK
            server.logged(f"round closed round={waited_at + 1} ")
            server.send(signal.SIGTERM)
            code = server.ended()
            meter.send(signal.SIGTERM)
            assert meter.ended() == ExitCode.OK

    assert code == ExitCode.OK, server.log
    assert "so far, without end" in server.output
    assert version_of(tmp_path / "run") == waited_at + 2  # the round that was open when the signal came has closed
    assert_learnt_once(tmp_path / "run")
    assert not (tmp_path / "run" / "state" / "drain").exists()
