"""Every technique can be switched on by name and alone: it learns, and it learns otherwise unless it only costs."""

import threading

import numpy as np
import pytest
from short_runs import ADAM, BRACKETS, COMMUNITIES, NORMED, SHIFTED, chosen_settings, finished, run_in

from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.server import scorer
from fedmb.settings import to_toml
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.parameters import initial_arrays
from fedmb.training.task import load_task

UNTAUGHT = 0.995  # of the loss of the model that nobody has taught
BASE = "training.learning_rate.base_size=16"
SIZING = "training.sizing"
RATE = "training.learning_rate"
GHOST = f"training.norm=ghost training.norm_group=8 {SIZING}.multiple=8"

# What teaches otherwise than the settings that it is added to.
OTHERWISE = {
    "": (
        f"{SIZING}.kind=mccandlish {SIZING}.max_size=128",
        f"{SIZING}.kind=norm_test {SIZING}.max_size=128",
        f"{SIZING}.kind=cabs {SIZING}.max_size=128",
        f"{SIZING}.kind=goodput {SIZING}.max_size=128 {SIZING}.decide_every=500",
        f"{SIZING}.kind=energy_goodput {SIZING}.max_size=128 training.watts=40",
        f"{SIZING}.kind=energy_budget {SIZING}.max_size=64 {SIZING}.joules=5 {SIZING}.samples=9000 training.watts=40",
        f"{SIZING}.kind=ramp {SIZING}.stop_size=64 {SIZING}.samples=3000",
        f"{SIZING}.kind=ada_batch {SIZING}.every_samples=500 {SIZING}.max_size=128",
        f"{SIZING}.kind=milestones {SIZING}.milestones={{0=16,500=32}}",
        f"{SIZING}.kind=instead_of_decay {SIZING}.max_size=128 {RATE}.decay=steps {RATE}.drops={{500=0.5}}",
        f"{RATE}.scaling=linear {BASE}",
        f"{RATE}.scaling=sqrt {BASE}",
        f"{RATE}.scaling=gain {BASE}",
        f"{RATE}.scaling=legw {BASE} {RATE}.warmup_samples=500",
        f"{RATE}.warmup_samples=500 {RATE}.warmup_start=0.2",
        f"{RATE}.decay=cosine {RATE}.decay_samples=3000 {RATE}.floor=0.1",
        f"{RATE}.decay=steps {RATE}.drops={{500=0.1}}",
        "training.momentum=0.9",
        "training.weight_decay=0.01",
        "training.weight_decay_samples=2000",
        "training.optimizer=adamw training.learning_rate.rate=0.01",
        "training.optimizer=rmsprop training.learning_rate.rate=0.003",
        "training.optimizer=adagrad training.learning_rate.rate=0.02",
        "training.optimizer=lars training.learning_rate.rate=1",
        "training.optimizer=lamb training.learning_rate.rate=0.05",
        "training.optimizer=torch.optim:NAdam training.learning_rate.rate=0.01",
        "training.precision=bf16",
        "training.precision=fp16",
        "training.guard.clip_norm=0.5",
        "training.proximal=0.1",
        "training.average=0.9",
        "training.samples=100",
        "rows.curriculum_samples=1000",
        "rows.tail=keep",
        "private.tables=2",
    ),
    "streamed.clients=0": (f"{SIZING}.kind=full", f"private.dataset={SHIFTED} rows.tail=drop rows.prefetch=2"),
    "private.tables=2": ("rows.temperature=4",),
    "training.average=0.9": (f"{RATE}.follow=['average'] {BASE}",),
    "training.momentum=0.9 training.weight_decay=0.001": (f"{RATE}.follow=['momentum','weight_decay'] {BASE}",),
    ADAM: (f"{RATE}.scaling=adam_gain {BASE}", "training.optimizer_options={betas=[0.5,0.9]}"),
    "training.optimizer=lamb": (f"{RATE}.follow=['momentum'] {BASE}",),
    "training.optimizer=lars training.learning_rate.rate=1": ("training.optimizer_options={eta=0.002}",),
    NORMED: (
        GHOST,
        "training.norm=group training.norm_group=4",
        "training.norm=layer",
        "training.norm=frozen",
        "training.norm_travels=silobn",
        "training.norm_travels=fedbn",
        f"{RATE}.follow=['norm_momentum'] {BASE}",
        "training.dropout=normed_digits:halved",
    ),
    BRACKETS: ("rows.buckets={}", "rows.curriculum_samples=600"),
    f"{BRACKETS} rows.buckets={{}}": ("rows.buckets.pool=4", "rows.buckets.max_tokens=400"),
    COMMUNITIES: ("rows.graph={}", "rows.graph.fan_outs=['all'] rows.tail=keep"),
    f"{COMMUNITIES} rows.graph.fan_outs=[4,3]": ("private.tables=2", "private.tables=2 rows.temperature=4"),
}
# What only costs: the same bits.
COSTS = {
    "": (
        "training.checkpointed=['0']",
        "training.guard.skip_non_finite=true training.guard.spike_factor=80",
        "training.watts=40 training.grams_per_kwh=300",
        "training.joules=1e9 training.watts=40",
        "rows.prefetch=2",
    ),
    f"{BRACKETS} rows.buckets={{}}": ("rows.buckets.by=symbols", "rows.prefetch=2"),
}
# What only costs, but for the last digits: another cut adds in another order.
ROUNDED = {
    "": ("training.micro_size=5", "training.micro_size=auto", "training.noise_every=4"),
    f"{NORMED} {GHOST}": ("training.micro_size=16", "training.noise_every=4"),
    f"{BRACKETS} rows.buckets={{}} training.optimizer=sgd": ("training.micro_size=5", "training.noise_every=4"),
}


def cases(effects):
    return [(base, added) for base, techniques in effects.items() for added in techniques]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The last arrays and scores of a run by its settings; each run once."""
    found = {}

    def end(text):
        if text not in found:
            wanted = chosen_settings(text)
            state, told = finished(tmp_path_factory.mktemp("run") / "run", wanted)
            found[text] = state.arrays, told[-1]["scores"]["loss"], wanted
        return found[text]

    return end


@pytest.fixture(scope="module")
def untaught():
    """Loss of each task's first model."""
    found = {}

    def loss(wanted):
        key = (wanted.task, wanted.training.norm)
        if key not in found:
            task, build = load_task(wanted.task), wanted.training.build_model
            state = ServerState(version=0, arrays=initial_arrays(task, wanted.seed, build=build))
            found[key] = scorer(task, {"": task.test_rows()}, build=build)(state)["loss"]
        return found[key]

    return loss


def differ(one, other):
    return {name for name in one if name not in other or one[name].tobytes() != other[name].tobytes()}


@pytest.mark.parametrize(("base", "added"), cases(OTHERWISE))
def test_a_technique_switched_on_by_name_learns_and_learns_otherwise(ends, untaught, base, added):
    arrays, loss, wanted = ends(f"{base} {added}".strip())

    assert loss < UNTAUGHT * untaught(wanted)
    assert differ(arrays, ends(base)[0])


@pytest.mark.parametrize(("base", "added"), cases(COSTS))
def test_a_technique_that_only_costs_changes_no_bit(ends, base, added):
    assert not differ(ends(f"{base} {added}".strip())[0], ends(base)[0])


@pytest.mark.parametrize(("base", "added"), cases(ROUNDED))
def test_a_cut_changes_the_last_digits_alone(ends, base, added):
    one, other = ends(f"{base} {added}".strip())[0], ends(base)[0]

    assert all(np.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


@pytest.mark.parametrize(
    ("travels", "stay"), [("silobn", {"running_mean", "running_var"}), ("fedbn", {"running_mean", "weight", "bias"})]
)
def test_what_does_not_travel_stays_as_the_run_began(ends, travels, stay):
    arrays, _, wanted = ends(f"{NORMED} training.norm_travels={travels}")
    first = initial_arrays(load_task(wanted.task), wanted.seed, build=wanted.training.build_model)

    assert {f"1.{name}" for name in stay} <= arrays.keys() - differ(arrays, first)
    assert "0.weight" in differ(arrays, first)


def test_carbon_noise_and_gradient_norms_are_told_where_they_are_asked_for(tmp_path):
    asked = "training.watts=40 training.grams_per_kwh=300 training.noise_every=2 training.guard.clip_norm=9"
    monitor = finished(tmp_path / "asked", chosen_settings(asked))[1][-1]["monitor"]
    plain = finished(tmp_path / "plain", chosen_settings(""))[1][-1]["monitor"]
    joules = monitor.get("joules_modelled", monitor.get("joules_measured"))

    assert monitor["carbon_grams"] == pytest.approx(joules / 3.6e6 * 300)
    assert {"noise", "dissimilarity", "gradient_norm"} <= monitor.keys()
    assert not {"noise", "dissimilarity", "gradient_norm", "carbon_grams"} & plain.keys()


def test_a_target_ends_the_run(tmp_path):
    state, told = finished(tmp_path / "run", chosen_settings("rounds.stopping.target=0.2"))

    assert state.version == len(told) < 3


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


@pytest.mark.parametrize(
    "chosen",
    [
        f"{BRACKETS} rows.buckets.max_tokens=400 rows.prefetch=1",
        f"{COMMUNITIES} rows.graph={{}}",
        f"private.dataset={SHIFTED} streamed.clients=0",
        f"{SIZING}.kind=cabs {SIZING}.max_size=128",
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
    assert not differ(one.arrays, other.arrays)
