"""A drift alarm in a whole federation: who prefetches, stops or is killed learns the same."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmb.federation.checkpoint import generations
from fedmb.settings import to_toml
from fedmb.simulation.client_kinds import Private, Streamed
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 8
ANSWERS = {"rewarm": 3.0, "shrink": 0.5, "replay_share": 0.125}
DETECTORS = {
    "page-hinkley": {"detector": "page-hinkley", "threshold": 20.0, "min_rows": 64},
    "adwin": {"detector": "adwin", "clock": 1, "confidence": 0.3},
}


def settings(drift, prefetch=0):
    return Simulation(
        seed=1,
        rounds={"count": ROUNDS},
        training={"steps": 20, "learning_rate": {"rate": 0.2}, "drift": drift, "prequential": {"every": 5}},
        private=Private(clients=1),
        streamed=Streamed(clients=1, drift_at=0.5, rows_per_second=float("inf")),
        rows={"prefetch": prefetch},
    )


class StopsBehind:
    """A sink that ends the run behind a round."""

    def __init__(self, stop, number):
        self.stop, self.number = stop, number

    def report(self, report):
        if report.round == self.number:
            self.stop.set()

    def close(self):
        pass


def told(path):
    """Alarms and score of each round."""
    return [(line["alarms"], line["monitor"]["prequential_loss"]) for _, line in read_lines(path / "metrics.jsonl")]


def part(path, chosen, number=None):
    """A run from where it stands to behind round `number`."""
    directory, stop = RunDirectory(path), threading.Event()
    try:
        return simulate(
            chosen,
            directory,
            sinks=lambda done: [JsonLines(directory.metrics, after_round=done), StopsBehind(stop, number)],
            stop=stop,
        )
    finally:
        directory.close()


@pytest.fixture(scope="module", params=DETECTORS.values(), ids=DETECTORS)
def drift(request):
    return request.param | ANSWERS


@pytest.fixture(scope="module")
def plain(drift, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    return part(path, settings(drift)), told(path), generations(path / "checkpoints")[-1][1].read_bytes()


def newest(path):
    return generations(path / "checkpoints")[-1][1].read_bytes()


def test_the_drift_rings_at_the_streamed_client_and_nowhere_else(plain):
    state, rounds, _ = plain
    rung = [number for number, (alarms, _) in enumerate(rounds, 1) if alarms]

    assert rung[0] in {4, 5, 6}, rung
    assert {client for alarms, _ in rounds for client in alarms} == {"stream-0"}
    assert "watch" not in state.positions["private-0"]["trainer"]


def test_batches_made_ahead_change_nothing(plain, drift, tmp_path):
    part(tmp_path, settings(drift, prefetch=3))

    assert (told(tmp_path), newest(tmp_path)) == plain[1:]


def test_stopping_before_with_and_after_the_alarm_changes_nothing(plain, drift, tmp_path):
    for number in (3, 4, 5, 6, None):
        part(tmp_path, settings(drift), number)

    assert (told(tmp_path), newest(tmp_path)) == plain[1:]


def test_being_killed_around_the_alarm_changes_nothing(plain, drift, tmp_path):
    run, chosen = tmp_path / "run", tmp_path / "chosen.toml"
    chosen.write_text(to_toml(settings(drift)))
    arguments = ["--config", str(chosen), "--run-dir", str(run)]
    for lines in (4, 5, None):
        with subprocess.Popen(
            [sys.executable, "-m", "fedmb", "simulate", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while lines is not None and process.poll() is None:
                if len(list(read_lines(run / "metrics.jsonl"))) >= lines:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            process.wait(120)
        arguments = ["--resume", str(run)]

    assert (told(run), newest(run)) == plain[1:]


def test_answering_changes_what_is_learnt_and_only_listening_does_not(plain, drift, tmp_path):
    listening = {name: value for name, value in drift.items() if name not in ANSWERS}
    heard = part(tmp_path / "heard", settings(listening)).arrays
    deaf = part(tmp_path / "deaf", settings({})).arrays

    assert all(heard[name].tobytes() == deaf[name].tobytes() for name in heard)
    assert any(heard[name].tobytes() != plain[0].arrays[name].tobytes() for name in heard)
    assert any(alarms for alarms, _ in told(tmp_path / "heard"))
    assert not any(alarms for alarms, _ in told(tmp_path / "deaf"))
