"""A simulation run, killed for real and resumed, must end with the bits of one that was never stopped.

The number of kills is 6; `FEDMB_KILLS=1000 make soak` raises it.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.federation import checkpoint
from fedmb.settings import load, to_toml
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

KILLS = int(os.environ.get("FEDMB_KILLS", "6"))
ROUNDS = 10
FAST = {"rounds.count": ROUNDS, "training.steps": 8, "streamed.rows_per_second": 2000.0, "replay.window": 1000}

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


def settings(**changes):
    return load(Simulation, explicit=FAST | {key.replace("__", "."): value for key, value in changes.items()})


def run_once(path, changes=None):
    """What `fedmb simulate` does: start the run in `path`, or go on with it."""
    if (path / "config.toml").exists():
        run = RunDirectory.existing(path)
        chosen = load(Simulation, file=run.config)
    else:
        chosen = settings(**(changes or {}))
        run = RunDirectory.create(path, config=to_toml(chosen), seed=chosen.seed)
    try:
        return simulate(chosen, run, sinks=lambda done: [JsonLines(run.metrics, after_round=done)])
    finally:
        run.close()


def final_digest(path):
    version, newest = checkpoint.generations(path / "checkpoints")[-1]
    assert version == ROUNDS
    return hashlib.sha256(newest.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    warm = PROCESSES.Process(target=time.monotonic)  # the fork server imports torch once, before the clock starts
    warm.start()
    warm.join(120)
    process = PROCESSES.Process(target=run_once, args=(path,))
    started = time.monotonic()
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return path, time.monotonic() - started


@pytest.mark.timeout(0)
@pytest.mark.soak
def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_bits(undisturbed, tmp_path, capsys):
    whole, duration = undisturbed
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    kills, runs, rounds_at_kill = 0, 0, []
    while kills < KILLS:
        runs += 1
        path = tmp_path / f"run-{runs}"
        while True:
            process = PROCESSES.Process(target=run_once, args=(path,))
            process.start()
            process.join(chance.uniform(0.0, duration))
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0, f"seed {seed}: a resumed run failed"
                break
            kills += 1
            found = checkpoint.generations(path / "checkpoints")
            rounds_at_kill.append(found[-1][0] if found else 0)

        assert final_digest(path) == final_digest(whole), f"seed {seed}, run {runs}"
        assert [entry["round"] for _, entry in read_lines(path / "metrics.jsonl")] == list(range(1, ROUNDS + 1))
    with capsys.disabled():
        print(f"\n{kills} kills in {runs} runs (seed {seed}), after rounds {rounds_at_kill}: all bit-identical")


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(undisturbed, tmp_path):
    again = tmp_path / "again"
    run_once(again)
    run_once(tmp_path / "other", {"seed": 1})

    assert final_digest(again) == final_digest(undisturbed[0])
    assert final_digest(tmp_path / "other") != final_digest(again)


def test_the_pace_of_the_feeder_never_changes_what_is_learnt(undisturbed, tmp_path):
    run_once(tmp_path / "fast", {"streamed__rows_per_second": float("inf")})

    assert final_digest(tmp_path / "fast") == final_digest(undisturbed[0])


def test_every_record_up_to_the_ledger_was_learnt_once(undisturbed):
    path, _ = undisturbed
    state = checkpoint.newest(path / "checkpoints")
    entries = [entry for _, entry in read_lines(path / "metrics.jsonl")]
    rows_per_record = Simulation().streamed.rows_per_record
    learnt = sum(entry["rows"]["stream"] for entry in entries)

    assert learnt == sum(here.offset * rows_per_record + here.row for here in state.ledger.values())


def test_without_replay_the_classes_that_left_the_stream_are_forgotten(tmp_path):
    def departed(share):
        run_once(tmp_path / str(share), {"rounds__count": ROUNDS, "training__steps": 40, "replay__share": share})
        entry = [entry for _, entry in read_lines(tmp_path / str(share) / "metrics.jsonl")][-1]
        return entry["scores"]["departed_accuracy"]

    assert departed(0.5) > departed(0.0) + 0.05


def test_a_run_directory_has_one_live_process(tmp_path):
    first = RunDirectory.create(tmp_path / "run", config="", seed=0)

    with pytest.raises(AlreadyOwned, match=f"process {os.getpid()}"):
        RunDirectory.existing(tmp_path / "run")
    first.close()


def test_a_run_keeps_its_seed(tmp_path):
    run_once(tmp_path / "run")
    run = RunDirectory.existing(tmp_path / "run")

    with pytest.raises(SettingsError, match="started with 0, got 5"):
        simulate(settings(seed=5), run)
    run.close()


def test_a_task_without_rows_cannot_be_simulated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    run = RunDirectory.create(tmp_path / "run", config="", seed=0)

    with pytest.raises(SettingsError, match="brings its rows"):
        simulate(settings(task=f"{Path(__file__).stem}:NoRows"), run)
    run.close()


class NoRows:
    schema = {}

    def build_model(self): ...
    def forward(self, model, rows): ...
    def loss(self, outputs, rows): ...
    def metrics(self, outputs, rows): ...


def test_env_and_config_of_a_run_can_be_read_by_others(undisturbed):
    path, _ = undisturbed
    env = json.loads((path / "env.json").read_text())

    assert env["seed"] == 0
    assert {"torch", "flwr", "numpy"} <= env["packages"].keys()
    assert load(Simulation, file=path / "config.toml") == settings()


@pytest.mark.parametrize(
    ("kinds", "clients"),
    [({"private__clients": 0}, ["stream-0", "stream-1"]), ({"streamed__clients": 0}, ["private-0", "private-1"])],
)
def test_either_kind_of_client_may_be_absent(tmp_path, kinds, clients):
    state = run_once(tmp_path / "run", kinds | {"rounds__count": 2})

    assert sorted(state.positions) == clients
    assert all(np.isfinite(array).all() for array in state.arrays.values())
