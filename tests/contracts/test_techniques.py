"""Every technique can be switched on by name, alone it learns, and what contradicts is refused before a round."""

import math
import re
import threading

import numpy as np
import pytest

from fedmb.errors import SettingsError, ShapeError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.server import scorer
from fedmb.settings import load, to_toml
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, read_lines
from fedmb.training.parameters import initial_arrays
from fedmb.training.task import load_task

SHORT = {"rounds.count": 3, "training.steps": 8, "streamed.rows_per_second": math.inf, "replay.window": 1000}
ADAM = "training.optimizer=adam training.learning_rate.rate=0.01"
BRACKETS = f"task=fedmb.tasks.brackets:Brackets streamed.clients=0 {ADAM}"
COMMUNITIES = "task=fedmb.tasks.communities:Communities streamed.clients=0"
SHIFTED = "dataset:fedmb.tasks.digits:ShiftedDigits?pixels=1"
UNTAUGHT = 0.995  # of the loss of the model that nobody has taught

TECHNIQUES = (
    "training.sizing.kind=mccandlish training.sizing.max_size=128",
    "training.sizing.kind=norm_test training.sizing.max_size=128",
    "training.sizing.kind=cabs training.sizing.max_size=128",
    "training.sizing.kind=goodput training.sizing.max_size=128 training.sizing.decide_every=500",
    "training.sizing.kind=energy_goodput training.sizing.max_size=128 training.watts=40",
    (
        "training.sizing.kind=energy_budget training.sizing.max_size=64 training.sizing.joules=5 "
        "training.sizing.samples=9000 training.watts=40"
    ),
    "training.sizing.kind=ramp training.sizing.stop_size=64 training.sizing.samples=3000",
    "training.sizing.kind=ada_batch training.sizing.every_samples=500 training.sizing.max_size=128",
    "training.sizing.kind=milestones training.sizing.milestones={0=16,500=32}",
    (
        "training.sizing.kind=instead_of_decay training.sizing.max_size=128 training.learning_rate.decay=cosine "
        "training.learning_rate.decay_samples=3000 training.learning_rate.floor=0.1"
    ),
    "training.sizing.kind=full streamed.clients=0",
    "training.learning_rate.scaling=gain training.learning_rate.base_size=16",
    "training.learning_rate.scaling=legw training.learning_rate.base_size=16 training.learning_rate.warmup_samples=500",
    "training.learning_rate.decay=steps training.learning_rate.drops={900=0.1}",
    (
        "training.learning_rate.follow=['momentum','weight_decay'] training.learning_rate.base_size=16 "
        "training.momentum=0.9 training.weight_decay=0.001"
    ),
    "training.optimizer=adamw training.learning_rate.rate=0.01",
    "training.optimizer=lars training.learning_rate.rate=1",
    "training.optimizer=lamb training.learning_rate.rate=0.05",
    "training.precision=bf16",
    "training.precision=fp16",
    "training.micro_size=auto",
    "training.micro_size=5",
    "training.checkpointed=['0']",
    "training.guard.clip_norm=1 training.guard.skip_non_finite=true training.guard.spike_factor=8",
    "training.proximal=0.1",
    "training.average=0.9",
    "training.noise_every=4",
    "rows.curriculum_samples=1000",
    "rows.prefetch=2",
    "private.tables=2 rows.temperature=4",
    "rows.tail=keep",
    "rounds.stopping.patience=1",
    f"{BRACKETS} rows.buckets={{}}",
    f"{BRACKETS} rows.buckets.pool=4 rows.buckets.by=symbols rows.prefetch=2 training.micro_size=5",
    f"{BRACKETS} rows.buckets.max_tokens=400 training.noise_every=4",
    f"{BRACKETS} rows.curriculum_samples=600",
    f"{COMMUNITIES} rows.graph={{}}",
    f"{COMMUNITIES} rows.graph.fan_outs=['all'] rows.tail=keep rows.prefetch=2",
    f"{COMMUNITIES} rows.graph.fan_outs=[4,3] private.tables=2 rows.temperature=4",
    f"private.dataset={SHIFTED} rows.tail=drop rows.prefetch=2",
)


def chosen_settings(text, **explicit):
    """Settings as `fedmb simulate --set ... --set ...` has them, of a short run where they do not say otherwise."""
    overrides = re.findall(r"\S+=(?:\[[^]]*\]|\{[^}]*\}|\S+)", text)
    short = {key: value for key, value in SHORT.items() if not any(one.startswith(key) for one in overrides)}
    return load(Simulation, overrides=overrides, explicit=short | explicit)


def run_in(path, wanted):
    """The scores of each round."""
    run = RunDirectory.create(path, config=to_toml(wanted), seed=wanted.seed)
    try:
        state = simulate(wanted, run, sinks=lambda done: [JsonLines(run.metrics, after_round=done)])
    finally:
        run.close()
    assert load(Simulation, file=run.config) == wanted
    assert all(np.isfinite(array).all() for array in state.arrays.values())
    return [entry["scores"] for _, entry in read_lines(run.metrics)]


@pytest.fixture(scope="module")
def untaught():
    """Loss of each task's first model."""
    found = {}

    def loss(wanted):
        if wanted.task not in found:
            task = load_task(wanted.task)
            state = ServerState(version=0, arrays=initial_arrays(task, wanted.seed, build=wanted.training.build_model))
            found[wanted.task] = scorer(task, {"": task.test_rows()})(state)["loss"]
        return found[wanted.task]

    return loss


@pytest.mark.parametrize("chosen", TECHNIQUES)
def test_every_technique_is_switched_on_by_name_and_learns(tmp_path, untaught, chosen):
    wanted = chosen_settings(chosen)
    scores = run_in(tmp_path / "run", wanted)

    assert scores[-1]["loss"] < UNTAUGHT * untaught(wanted)


class StopAfterARound:
    """Asks the run to end once it has told a round."""

    def __init__(self):
        self.event = threading.Event()

    def report(self, report):
        self.event.set()

    def close(self): ...


def accuracy(path, text, rounds):
    return run_in(path, chosen_settings(text, **{"rounds.count": rounds, "training.steps": 20}))[-1]["accuracy"]


def test_buckets_learn_to_close_brackets(tmp_path):
    assert accuracy(tmp_path / "run", f"{BRACKETS} rows.buckets={{}}", rounds=8) > 0.85  # chance is 0.33


def test_neighbours_tell_more_of_a_node_than_its_own_features(tmp_path):
    alone = accuracy(tmp_path / "alone", COMMUNITIES, rounds=8)
    together = accuracy(tmp_path / "together", f"{COMMUNITIES} rows.graph={{}}", rounds=8)

    assert 0.3 < alone < 0.5  # chance is 0.1
    assert together > alone + 0.3


def test_a_dataset_is_dealt_out_and_learnt(tmp_path):
    text = f"private.dataset={SHIFTED} private.alpha=100 streamed.clients=0"

    assert accuracy(tmp_path / "run", text, rounds=8) > 0.8  # chance is 0.1


def test_bucketed_batches_teach_the_same_however_they_are_split(tmp_path):
    """Units are tokens, and the server's average counts them (invariant I2)."""
    ends = []
    for split in ("", "training.micro_size=5", "training.micro_size=auto"):
        wanted = chosen_settings(f"{BRACKETS} rows.buckets={{}} training.optimizer=sgd {split}")
        run_in(tmp_path / f"run-{split}", wanted)
        ends.append(checkpoint.newest(tmp_path / f"run-{split}" / "checkpoints").arrays)

    for other in ends[1:]:
        assert all(np.allclose(other[name], ends[0][name], rtol=1e-4, atol=1e-6) for name in ends[0])


@pytest.mark.parametrize(
    "chosen",
    [
        f"{BRACKETS} rows.buckets.max_tokens=400 rows.prefetch=1",
        f"{COMMUNITIES} rows.graph={{}}",
        f"private.dataset={SHIFTED} streamed.clients=0",
    ],
)
def test_a_run_stopped_after_each_round_ends_with_the_bits_of_one_that_was_not(tmp_path, chosen):
    wanted = chosen_settings(chosen)
    run_in(tmp_path / "whole", wanted)
    stopped = RunDirectory.create(tmp_path / "stopped", config=to_toml(wanted), seed=0)
    for _ in range(wanted.rounds.count):
        stop = StopAfterARound()
        simulate(wanted, stopped, sinks=lambda _, stop=stop: [stop], stop=stop.event)
    stopped.close()
    one, other = (checkpoint.newest(tmp_path / name / "checkpoints") for name in ("whole", "stopped"))

    assert one.version == other.version == wanted.rounds.count
    assert one.positions == other.positions
    assert all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (["training.sizing.kind=goodput"], "max_size"),
        (["training.sizing.kind=cabs", "training.sizing.max_size=64", "training.momentum=0.9"], "plain SGD"),
        (["training.norm=ghost"], "norm_group"),
        (["training.norm=ghost", "training.norm_group=8"], "sizing.multiple"),
        (["training.learning_rate.scaling=adam_gain", "training.learning_rate.base_size=32"], "adam_gain"),
        (["training.learning_rate.decay=cosine"], "decay_samples"),
        (["training.optimizer=adam", "training.momentum=0.9"], "momentum"),
        (["rows.buckets={}"], "rows.buckets needs its rows in a table, got a stream"),
        (["rows.graph={}"], "rows.graph needs its rows in a table, got a stream"),
        (["rows.buckets={}", "rows.graph={}", "streamed.clients=0"], "got buckets and graph; keep one"),
        (["rows.buckets={}", "rows.tail=keep", "streamed.clients=0"], "leave tail at balance"),
        ([f"private.dataset={SHIFTED}", "rows.curriculum_samples=9"], "curriculum_samples needs .* got a dataset"),
        ([f"private.dataset={SHIFTED}", "private.tables=2"], "one part a client"),
        ([f"private.dataset={SHIFTED}", "private.clients=0"], "one part a client"),
        (["rows.buckets.pol=3"], "did you mean rows.buckets.pool"),
        (["rows.graph.fan_outs=[0]"], "rows.graph.fan_outs"),
    ],
)
def test_techniques_that_contradict_each_other_are_refused_when_settings_are_read(chosen, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load(Simulation, overrides=chosen)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("rows.buckets={} streamed.clients=0", "this table has none of image, label"),
        (f"{BRACKETS} rows.buckets.by=letters", "letters and letters_mask, this table has symbols"),
        (f"{BRACKETS} rows.buckets.max_tokens=39", "cover the longest row, 40 tokens, got 39"),
        (f"{BRACKETS} rows.buckets={{}} private.tables=2", "one table by length, got 2"),
        (f"{BRACKETS} rows.graph={{}}", "need a table of nodes"),
        (f"{COMMUNITIES} rows.graph.fan_outs=[5,5,5]", "beyond the 2 hops"),
        (f"{COMMUNITIES} rows.curriculum_samples=9", "without difficulty"),
        ("private.dataset=dataset:fedmb.tasks.digits:ShiftedDigits?pixels=9", "0 to 7 pixels, got 9"),
        (f"{BRACKETS} private.dataset={SHIFTED}", "padded length 40, got one of 64"),
        (f"{COMMUNITIES} private.dataset={SHIFTED}", "need a name for each place"),
    ],
)
def test_a_technique_that_the_task_cannot_bear_is_refused_before_the_first_round(tmp_path, chosen, sentence):
    with pytest.raises((SettingsError, ShapeError), match=sentence):
        run_in(tmp_path / "run", chosen_settings(chosen))
    assert not checkpoint.generations(tmp_path / "run" / "checkpoints")
