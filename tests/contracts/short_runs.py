"""Short simulations by the settings that a user would write, and what they ended with."""

import math
import re

import numpy as np

from fedmb.settings import load, to_toml
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines

SHORT = {"rounds.count": 3, "training.steps": 8, "streamed.rows_per_second": math.inf, "replay.window": 1000}
ADAM = "training.optimizer=adam training.learning_rate.rate=0.01"
BRACKETS = f"task=fedmb.tasks.brackets:Brackets streamed.clients=0 {ADAM}"
COMMUNITIES = "task=fedmb.tasks.communities:Communities streamed.clients=0"
SHIFTED = "dataset:fedmb.tasks.digits:ShiftedDigits?pixels=1"
NORMED = "task=normed_digits:NormedDigits streamed.clients=0"


def chosen_settings(text, **explicit):
    """Settings as `fedmb simulate --set ... --set ...` has them, of a short run where they do not say otherwise."""
    overrides = re.findall(r"[^\s=]+=(?:\[[^]]*\]|\{[^}]*\}|\S+)", text)
    short = {key: value for key, value in SHORT.items() if not any(one.startswith(key) for one in overrides)}
    return load(Simulation, overrides=overrides, explicit=short | explicit)


def finished(path, wanted):
    """The last state of a run, and what was told of each round."""
    run = RunDirectory.create(path, config=to_toml(wanted), seed=wanted.seed)
    try:
        state = simulate(wanted, run, sinks=lambda done: [JsonLines(run.metrics, after_round=done)])
    finally:
        run.close()
    assert load(Simulation, file=run.config) == wanted
    assert all(np.isfinite(array).all() for array in state.arrays.values())
    return state, [entry for _, entry in read_lines(run.metrics)]


def run_in(path, wanted):
    """The scores of each round."""
    return [entry["scores"] for entry in finished(path, wanted)[1]]
