"""`fedmb simulate` with each memory: killed and resumed it ends with the same bits, and it remembers what it says.

Each memory is killed 3 times; FEDMB_KILLS raises it.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import random
import signal
import time

import pytest

from fedmb.errors import SettingsError
from fedmb.federation import checkpoint
from fedmb.settings import load, to_toml
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

MEMORIES = ("newest", "reservoir", "balanced", "prioritized")
KILLS = max(3, int(os.environ.get("FEDMB_KILLS", "0")) // 10)
ROUNDS = 8
FAST = {
    "rounds.count": ROUNDS,
    "training.steps": 20,
    "streamed.clients": 1,
    "streamed.rows_per_second": math.inf,
    "private.clients": 1,
    "replay.window": 400,
}
LONG = {"rounds.count": 10, "training.steps": 40, "streamed.drift_at": 0.4, "private.clients": 0}

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


def run_once(path, changes):
    """What `fedmb simulate` does: start the run in `path`, or go on with it."""
    if (path / "config.toml").exists():
        run = RunDirectory.existing(path)
        chosen = load(Simulation, file=run.config)
    else:
        chosen = load(Simulation, explicit=FAST | changes)
        run = RunDirectory.create(path, config=to_toml(chosen), seed=chosen.seed)
    try:
        return simulate(chosen, run, sinks=lambda done: [JsonLines(run.metrics, after_round=done)])
    finally:
        run.close()


def digest(path):
    version, newest = checkpoint.generations(path / "checkpoints")[-1]
    assert version == ROUNDS
    return hashlib.sha256(newest.read_bytes()).hexdigest()


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_bits(memory, tmp_path):
    changes = {"replay.memory": memory}
    warm = PROCESSES.Process(target=time.monotonic)  # the fork server imports torch once, before the clock starts
    warm.start()
    warm.join(120)
    started = time.monotonic()
    whole = PROCESSES.Process(target=run_once, args=(tmp_path / "whole", changes))
    whole.start()
    whole.join(120)
    duration = time.monotonic() - started
    assert whole.exitcode == 0
    seed = random.SystemRandom().randrange(1 << 32)
    chance, kills, runs = random.Random(seed), 0, 0

    while kills < KILLS:
        runs += 1
        path = tmp_path / f"run-{runs}"
        while True:
            process = PROCESSES.Process(target=run_once, args=(path, changes))
            process.start()
            process.join(chance.uniform(0.2, 0.8) * duration)
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0, f"seed {seed}: a resumed run failed"
                break
            kills += 1
        assert digest(path) == digest(tmp_path / "whole"), f"seed {seed}, run {runs}"


def last_scores(path, memory, **changes):
    run_once(path, LONG | {"replay.memory": memory} | changes)
    return [entry for _, entry in read_lines(path / "metrics.jsonl")][-1]["scores"]


def test_classes_that_left_long_ago_are_known_by_a_memory_of_everything_alone(tmp_path):
    # 6,400 fresh rows; the first five classes left 3,840 rows ago, and 400 are remembered.
    scores = {memory: last_scores(tmp_path / memory, memory) for memory in MEMORIES}
    departed = {memory: one["departed_accuracy"] for memory, one in scores.items()}
    print(departed)

    assert max(departed["newest"], departed["prioritized"]) < 0.3
    assert min(departed["reservoir"], departed["balanced"]) > 0.8
    assert min(scores[one]["accuracy"] for one in ("reservoir", "balanced")) > 0.85


def test_rows_drawn_by_loss_are_not_made_ahead(tmp_path):
    with pytest.raises(SettingsError, match="rows drawn by loss are not made ahead"):
        run_once(tmp_path / "run", {"replay.memory": "prioritized", "rows.prefetch": 2})
