"""What each setting of `[training]` builds: the object itself, not only that something trains."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.table import TableSource
from fedmb.sizing.stats import Stats
from fedmb.training import recipe
from fedmb.training.guard import Verdict
from fedmb.training.norm import FrozenNorm, GhostNorm
from fedmb.training.optimizers import Lamb, Lars
from fedmb.training.recipe import Training
from fedmb.training.regularize import Proximal
from fedmb.training.stretch import Budget

ROWS = 96
NOISY = {"base_size": 16}


class Normed:
    """A small regression with batch norm."""

    schema = {"x": Column("float32", (6,)), "y": Column("float32")}

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


class Plain(Normed):
    """The same without a norm, for what batch norm does not bear."""

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def source():
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, 6)).astype(np.float32)
    return TableSource({"x": x, "y": (x.sum(1) + random.standard_normal(ROWS)).astype(np.float32)}, seed=3, client="a")


def built(task=Normed, **training):
    """The trainer of these settings."""
    torch.manual_seed(0)
    settings, rows = Training(**training), source()
    model = settings.build_model(task())
    return settings.build_trainer(task(), model, rows, settings.build_pacing(model, rows), torch.device("cpu"))


def applied(trainer, *, samples=0, rows=32, noise=None):
    """The optimiser's first group for a step of `rows` after `samples` rows."""
    stats = Stats()
    if noise:
        stats.observe_groups([8, 8], [1 + noise / 8, 1 + noise / 8], 1 + noise / 16)
    trainer.hyperparameters.apply(samples, rows, stats)
    return trainer.step.optimizer.param_groups[0]


def parts_of(trainer, rows=ROWS):
    batch = MiniBatch({"x": np.zeros((rows, 6), np.float32)})
    return trainer.step.split.run(batch, len, trainer.step.model)


def test_the_defaults_switch_nothing_on():
    plain = built()
    step = plain.step

    assert step.guard is step.rollback is plain.average is plain.watch is None
    assert (step.edits, step.split.is_whole, step.precision.name, plain.noise_every) == ((), True, "fp32", 0)
    assert isinstance(step.optimizer, torch.optim.SGD)
    assert isinstance(step.model[1], nn.BatchNorm1d)
    assert (plain.progress.learning_rate, plain.size.largest) == (0.1, 32)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"norm": "ghost", "norm_group": 8, "sizing": {"multiple": 8}}, GhostNorm),
        ({"norm": "group", "norm_group": 4}, nn.GroupNorm),
        ({"norm": "layer"}, nn.GroupNorm),
        ({"norm": "frozen"}, FrozenNorm),
    ],
)
def test_norm_replaces_the_layers_of_the_model(settings, kind):
    layer = built(**settings).step.model[1]

    assert type(layer) is kind
    assert getattr(layer, "group", None) == (8 if kind is GhostNorm else None)
    assert getattr(layer, "num_groups", None) == {"group": 4, "layer": 1}.get(settings["norm"])


def test_checkpointed_computes_the_named_blocks_again(monkeypatch):
    ran, linear = [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *inputs: ran.append(1) or linear(*inputs))
    counts = []
    for names in ((), ("0",), ("0", "3")):
        ran.clear()
        built(checkpointed=names).run(Budget(steps=1))
        counts.append(len(ran))

    assert counts == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("adagrad", torch.optim.Adagrad),
        ("lars", Lars),
        ("lamb", Lamb),
    ],
)
def test_optimizer_names_a_class_and_gets_rate_and_decay(name, kind):
    groups = (
        optimizer := built(optimizer=name, weight_decay=0.03, learning_rate={"rate": 0.02}).step.optimizer
    ).param_groups

    assert type(optimizer) is kind
    assert {group["lr"] for group in groups} == {0.02}
    assert [group["weight_decay"] for group in groups] == ([0.03, 0.0] if name in {"lars", "lamb"} else [0.03])


@pytest.mark.parametrize("name", ["sgd", "lars", "rmsprop"])
def test_momentum_reaches_the_optimizer(name):
    assert built(optimizer=name, momentum=0.8).step.optimizer.param_groups[0]["momentum"] == 0.8


def test_proximal_is_an_edit_around_the_rounds_first_weights():
    trainer = built(proximal=0.5)
    (edit,) = trainer.step.edits
    with torch.no_grad():
        trainer.step.model[0].weight.add_(1.0)

    assert isinstance(edit, Proximal)
    assert float(edit.penalty()) == pytest.approx(0.5 / 2 * 48)


@pytest.mark.parametrize(("micro_size", "parts"), [(None, [96]), (24, [24] * 4), (40, [32] * 3), ("auto", [96])])
def test_micro_size_cuts_the_batch(micro_size, parts):
    trainer = built(Plain, micro_size=micro_size)

    assert parts_of(trainer) == parts
    assert trainer.step.split.is_whole == (micro_size is None)


def test_a_split_of_ghost_norm_keeps_groups_whole():
    trainer = built(micro_size=16, norm="ghost", norm_group=8, sizing={"multiple": 8})

    assert trainer.step.split.multiple == 8
    assert parts_of(trainer, rows=40) == [8, 16, 16]


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_precision_is_the_steps(name):
    assert built(precision=name).step.precision.name == name


def test_clip_norm_bounds_and_reads_nothing():
    guard = built(guard={"clip_norm": 0.25}).step.guard

    assert (guard.max_norm, guard.reads_norm) == (0.25, False)


def test_skip_non_finite_skips():
    guard = built(guard={"skip_non_finite": True}).step.guard

    assert (guard.judge(1.0), guard.judge(math.nan)) == (Verdict.OK, Verdict.SKIP)


def test_spike_factor_skips_and_then_goes_back():
    step = built(guard={"spike_factor": 4.0, "rollback_every": 2}).step
    verdicts = [step.guard.judge(norm) for norm in [1.0] * 32 + [3.9, 4.1, 4.1, 4.1]]

    assert verdicts[-4:] == [Verdict.OK, Verdict.SKIP, Verdict.SKIP, Verdict.ROLLBACK]
    kept = [step.rollback.after_step() or step.rollback.state_dict()["steps"] for _ in range(4)]
    assert kept == [1, 0, 1, 0]


def test_guards_are_joined():
    guard = built(guard={"clip_norm": 0.5, "skip_non_finite": True, "spike_factor": 8.0}).step.guard

    assert (guard.max_norm, guard.reads_norm, guard.judge(math.inf)) == (0.5, True, Verdict.SKIP)


def test_average_noise_and_watts_are_the_trainers():
    assert built(average=0.97).average.decay == 0.97
    assert built(Plain, noise_every=7).noise_every == 7


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ({"rate": 0.3}, 0.3),
        ({"scaling": "linear", **NOISY}, 0.2),
        ({"scaling": "sqrt", **NOISY}, 0.1 * 2**0.5),
        ({"warmup_samples": 100, "warmup_start": 0.2}, 0.1 * 0.6),
        ({"decay": "cosine", "decay_samples": 100}, 0.05),
        ({"decay": "steps", "drops": {50: 0.1}}, 0.01),
        ({"scaling": "legw", "warmup_samples": 100, **NOISY}, 0.1 * 2**0.5 * 0.25),
    ],
)
def test_schedule_and_scaling_reach_the_rate(rate, expected):
    assert applied(built(learning_rate=rate), samples=50)["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("scaling", "optimizer", "power"), [("gain", "sgd", 1.0), ("adam_gain", "adam", 0.5)])
def test_a_gain_follows_the_noise(scaling, optimizer, power):
    trainer = built(Plain, optimizer=optimizer, learning_rate={"scaling": scaling, **NOISY})

    assert applied(trainer, noise=48)["lr"] == pytest.approx(0.1 * ((1 + 48 / 16) / (1 + 48 / 32)) ** power)


def test_follow_reaches_momentum_decay_and_batch_norm():
    trainer = built(
        momentum=0.9,
        weight_decay=0.01,
        learning_rate={"follow": ("momentum", "weight_decay", "norm_momentum"), **NOISY},
    )
    group = applied(trainer)

    assert (group["momentum"], group["weight_decay"]) == pytest.approx((0.81, 0.02))
    assert trainer.step.model[1].momentum == pytest.approx(0.19)


@pytest.mark.parametrize(
    ("sizing", "size"),
    [
        ({"kind": "fixed", "size": 24}, 24),
        ({"kind": "full"}, ROWS),
        ({"kind": "milestones", "milestones": {0: 8, 100: 24}}, 24),
        ({"kind": "ramp", "size": 8, "stop_size": 40, "samples": 100}, 40),
        ({"kind": "ada_batch", "size": 8, "every_samples": 100, "max_size": 16}, 16),
    ],
)
def test_a_planned_size_moves(sizing, size):
    trainer = built(sizing=sizing, steps=1)
    trainer.run(Budget(steps=40))

    assert trainer.progress.size == size


def test_instead_of_decay_moves_the_size_and_not_the_rate():
    decay = {"decay": "steps", "drops": {100: 0.5}}
    trainer = built(sizing={"kind": "instead_of_decay", "size": 8, "max_size": 32}, learning_rate=decay)
    trainer.run(Budget(steps=40))

    assert (trainer.progress.size, trainer.progress.learning_rate) == (16, 0.1)


@pytest.mark.parametrize(
    ("sizing", "size"),
    [
        ({"kind": "mccandlish"}, 50),
        ({"kind": "norm_test", "theta": 0.5}, 200),  # 50 / 0.5^2
        ({"kind": "cabs"}, 40),  # 0.1 * 800 / 2
        ({"kind": "goodput"}, 71),  # sqrt(50 * 100)
        ({"kind": "energy_goodput"}, 32),  # sqrt(50 * 20) = 31.6
        ({"kind": "energy_budget", "joules": 125.0, "samples": 2_000}, 80),  # (1 + 80 / 20) / 80 J a row
    ],
)
def test_a_measured_size_moves(monkeypatch, sizing, size):
    """Noise 50 (trace 800), loss 2, a step of 100 + B milliseconds and 1 + B / 20 joules."""
    monkeypatch.setattr(recipe, "available_meter", lambda watts: Spent())
    trainer = built(Plain, sizing={"max_size": 512, "growth": 4.0, **sizing}, watts=40)
    trainer.stats.observe_groups([8, 8], [116.0, 116.0], 66.0)
    for rows in (16, 64):
        trainer.stats.observe_step(rows, 0.1 + 0.001 * rows, 1.0 + rows / 20)
        trainer.stats.observe_loss(2.0, rows)
    asked = trainer.size(trainer.progress, trainer.stats)

    assert asked == size
    assert trainer.noise_every == (0 if sizing["kind"] == "energy_budget" else 500)


class Spent:
    """A meter that stands still."""

    def used(self):
        return recipe.Energy(0.0, "modelled")
