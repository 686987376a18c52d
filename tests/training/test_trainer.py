"""The loop of steps, and the invariants that hold whatever is switched on."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.batch.prefetch import Prefetch
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.sizing.adaptive import mccandlish
from fedmb.sizing.clocks import Follow
from fedmb.sizing.learning_rate import linear
from fedmb.sizing.planned import milestones
from fedmb.sizing.schedule import cosine, warmup
from fedmb.training.guard import Clip, Finite, Spike
from fedmb.training.microbatch import Split
from fedmb.training.precision import Precision
from fedmb.training.recompute import checkpointed
from fedmb.training.rollback import RollbackPoint
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import POLL, Trainer
from fedmb.training.weight_average import WeightAverage

ROWS = 90


class Curve:
    """A small network with dropout, so that every random number counts."""

    schema = {"x": Column("float32", (6,)), "y": Column("float32")}

    def __init__(self, dropout=0.0):
        self.dropout = dropout

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(16, 1))

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


def source(seed=3, poison=None):
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, 6)).astype(np.float32)
    y = (x.sum(1) + random.standard_normal(ROWS)).astype(np.float32)
    if poison is not None:
        x[poison] = np.nan
    return TableSource({"x": x, "y": y}, seed=seed, client="a")


def trainer(  # one branch for each technique that may be switched on
    *,
    split=False,
    checkpoint=False,
    prefetch=False,
    noise=False,
    dropout=0.0,
    rows=None,
    momentum=0.9,
    seed=0,
    precision=None,
    guard=None,
    rollback=False,
    average=False,
    size=16,
    **others,
):
    torch.manual_seed(seed)
    task = Curve(dropout)
    model = task.build_model()
    if checkpoint:
        checkpointed(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    step = TrainStep(
        task,
        model,
        optimizer,
        split=Split.fixed(5) if split else None,
        precision=Precision(precision) if precision else None,
        guard=guard,
        rollback=RollbackPoint(model, optimizer, every=3) if rollback else None,
    )
    rows = rows or source()
    return Trainer(
        step,
        Prefetch(rows, 2) if prefetch else rows,
        size=size,
        noise_every=4 if noise else 0,
        average=WeightAverage(model, 0.9) if average else None,
        **others,
    )


def weights(one):
    return torch.cat([value.detach().flatten() for value in one.step.model.parameters()])


def trained(steps=20, stop_at=None, **switches):
    torch.manual_seed(7)
    one = trainer(**switches)
    torch.manual_seed(11)
    if stop_at is None:
        one.run(Budget(steps=steps))
    else:
        one.run(Budget(steps=stop_at))
        state = one.state_dict()
        one.source.close()
        torch.manual_seed(99)
        one = trainer(**switches)
        torch.manual_seed(99)
        one.load_state_dict(state)
        one.run(Budget(steps=steps - stop_at))
    one.source.close()
    return weights(one)


COSTS = ("split", "checkpoint", "prefetch", "noise", "stop")


@pytest.mark.parametrize("subset", [s for k in range(6) for s in itertools.combinations(COSTS, k)], ids="+".join)
def test_what_only_costs_does_not_change_what_is_learnt(subset):
    switches = {name: True for name in subset if name != "stop"}
    plain = trained()
    with_costs = trained(stop_at=9 if "stop" in subset else None, **switches)

    if {"split", "noise"} & set(subset):
        assert torch.allclose(with_costs, plain, atol=1e-6)
    else:
        assert torch.equal(with_costs, plain)


@pytest.mark.parametrize("subset", [s for k in range(4) for s in itertools.combinations((*COSTS[1:3], "stop"), k)])
def test_dropout_draws_the_same_masks_whatever_only_costs(subset):
    switches = {name: True for name in subset if name != "stop"}

    assert torch.equal(trained(dropout=0.3, stop_at=9 if "stop" in subset else None, **switches), trained(dropout=0.3))


@pytest.mark.parametrize(
    "switches",
    [
        {"guard": lambda: Clip(0.5) & Finite() & Spike(4.0, 8), "rollback": True},
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"noise": True, "size": mccandlish(8).clip(4, 32)},
        {"average": True, "follow": Follow(base=16, momentum=0.9, ema_decay=0.9, learning_rate=linear)},
        {"schedule": warmup(100, start=0.1) * cosine(2000), "dropout": 0.2},
    ],
    ids="+".join,
)
def test_stopping_at_any_step_and_resuming_gives_the_same_bits(switches):
    def fresh():
        return {name: value() if name == "guard" else value for name, value in switches.items()}  # guards remember

    whole = trained(steps=40, **fresh())
    for stop_at in (1, 7, POLL, POLL + 1, 39):
        torch.manual_seed(7)
        one = trainer(**fresh())
        torch.manual_seed(11)
        one.run(Budget(steps=stop_at))
        state = one.state_dict()
        other = trainer(**fresh())
        other.load_state_dict(state)
        other.run(Budget(steps=40 - stop_at))

        assert torch.equal(weights(other), whole), f"stopped after {stop_at}"


def test_changing_the_size_mid_run_leaves_every_schedule_at_the_same_sample():
    schedule = warmup(400, start=0.1) * cosine(5000)
    rates = {}
    for name, size in (("fixed", 10), ("grows", milestones({0: 10, 160: 40}))):
        one = trainer(size=size, schedule=schedule)
        rates[name] = {}
        for _ in range(100):
            rates[name][one.progress.samples] = None
            before = one.progress.samples
            one.run(Budget(steps=1))
            rates[name][before] = one.hyperparameters.learning_rate
    shared = rates["fixed"].keys() & rates["grows"].keys()

    assert len(shared) > 5
    assert all(rates["fixed"][sample] == rates["grows"][sample] == 0.05 * schedule(sample) for sample in shared)


def test_a_batch_with_a_bad_row_is_skipped_counted_and_not_learnt():
    one = trainer(rows=source(poison=17), guard=Finite(), size=16)
    learnt = one.run(Budget(samples=ROWS))

    assert learnt.skipped == 1
    assert learnt.units == ROWS - 15  # six level batches of 15, one of them skipped
    assert one.progress.samples == learnt.units
    assert torch.isfinite(weights(one)).all()
    assert math.isfinite(learnt.sums()["loss"])


def test_without_a_guard_the_same_row_poisons_the_model():
    one = trainer(rows=source(poison=17))
    one.run(Budget(samples=ROWS))

    assert not torch.isfinite(weights(one)).all()


def test_noise_is_measured_where_a_policy_reads_it_and_moves_the_size():
    one = trainer(size=mccandlish(8).clip(4, 64), noise=True)
    one.run(Budget(steps=200))

    assert one.stats.noise is not None
    assert one.stats.measurements == 50
    assert one.progress.size != 8


def test_a_policy_without_an_upper_bound_is_refused():
    with pytest.raises(SettingsError, match="upper bound"):
        trainer(size=mccandlish(8))


def test_a_budget_in_samples_is_kept_to_the_row():
    learnt = trainer(size=16).run(Budget(samples=75))

    assert sum(learnt.rows.values()) == learnt.units == 75


def test_a_budget_in_seconds_ends_training():
    ticks = itertools.count(0.0, 0.01)
    learnt = trainer(clock=lambda: next(ticks)).run(Budget(seconds=1.0))

    assert 10 < learnt.steps < 40


def test_full_batch_descent_is_the_closed_form_of_least_squares():
    class Line(Curve):
        def build_model(self):
            return nn.Linear(6, 1)

    torch.manual_seed(0)
    task = Line()
    model = task.build_model()
    rows = source()
    one = Trainer(
        TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.2), split=Split.fixed(7)), rows, size=ROWS
    )
    one.run(Budget(steps=400))
    columns = rows.take(ROWS).columns
    design = np.column_stack([columns["x"], np.ones(ROWS)])
    best = np.linalg.lstsq(design, columns["y"], rcond=None)[0]

    assert np.allclose(model.weight[0].detach(), best[:6], atol=1e-4)
    assert model.bias.item() == pytest.approx(best[6], abs=1e-4)


def test_an_epoch_of_ten_thousand_rows_at_a_hundred_is_a_hundred_batches():
    columns = {"x": np.zeros((10_000, 6), np.float32), "y": np.zeros(10_000, np.float32)}
    learnt = trainer(rows=TableSource(columns, seed=0, client="a"), size=100).run(Budget(samples=10_000))

    assert learnt.steps == 100


def test_gradient_norms_and_waiting_are_reported_as_sums():
    sums = trainer(guard=Clip(1.0)).run(Budget(steps=12)).sums()

    assert sums["steps"] == 12
    assert sums["gradient_norm"] > 0
    assert sums["wait_seconds"] >= 0
    assert sums["skipped"] == 0
