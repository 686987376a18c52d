"""What each setting of `[training]` builds: the object itself, not only that something trains."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.sizing.stats import Stats
from fedmb.training.guard import Verdict
from fedmb.training.local_update import LocalUpdate
from fedmb.training.norm import FrozenNorm, GhostNorm
from fedmb.training.optimizers import Lamb, Lars
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.regularize import Proximal
from fedmb.training.stretch import Budget

ROWS = 96


class Normed:
    """A small regression with batch norm and dropout."""

    schema = {"x": Column("float32", (6,)), "y": Column("float32")}

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

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


def applied(trainer, *, rows=32):
    """The optimiser's first group for a step of `rows`."""
    trainer.hyperparameters.apply(0, rows, Stats())
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
    for names in ((), ("0",), ("0", "4")):
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


def test_average_and_noise_every_are_the_trainers():
    assert built(average=0.97).average.decay == 0.97
    assert built(Plain, noise_every=7).noise_every == 7


def test_options_reach_the_optimizer_and_a_class_is_named():
    assert built(optimizer="lars", optimizer_options={"eta": 0.02}).step.optimizer.defaults["eta"] == 0.02
    assert built(optimizer="adam", optimizer_options={"betas": (0.8, 0.9)}).step.optimizer.defaults["betas"] == (
        0.8,
        0.9,
    )
    assert type(built(optimizer="torch.optim:RAdam").step.optimizer) is torch.optim.RAdam


def test_weight_decay_samples_shrinks_weights_by_the_rows_and_leaves_biases_alone():
    moved = []
    for settings in ({}, {"weight_decay_samples": 100.0}):
        trainer = built(Plain, learning_rate={"rate": 1e-9}, **settings)
        before = [each.clone() for each in trainer.step.model.state_dict().values()]
        rows = sum(trainer.run(Budget(steps=3)).rows.values())
        after = trainer.step.model.state_dict().values()
        moved.append([float((now / was).mean()) for now, was in zip(after, before, strict=True)])

    assert rows == 96
    assert moved[0] == pytest.approx([1.0] * 4, rel=1e-4)
    assert moved[1] == pytest.approx([math.exp(-0.96), 1.0] * 2, rel=1e-4)


def halved_above_16(rows, as_built):
    return as_built * min(1.0, 16 / rows)


def test_a_dropout_rule_sets_the_layers_by_the_rows_of_each_batch_from_what_was_built():
    settings = Training(dropout=f"{__name__}:halved_above_16")
    client = LocalUpdate(Normed(), source(), settings, client="a", seed=0)
    for version in range(2):  # the model stays from round to round, and its layers with it
        client.run(initial_arrays(Normed(), 0), base_version=version, position={})

        assert client.model[3].p == pytest.approx(0.1)


@pytest.mark.parametrize("which", [{"micro_size": 8}, {"micro_size": "auto"}, {"noise_every": 5}])
def test_batch_norm_beside_a_cut_is_refused_and_the_other_norms_are_not(which):
    with pytest.raises(SettingsError, match=r"which would see parts of it.*set training.norm to ghost, group, layer"):
        built(**which)
    for norm in ({"norm": "ghost", "norm_group": 8, "sizing": {"multiple": 8}}, {"norm": "layer"}, {"norm": "frozen"}):
        built(**which, **norm)


@pytest.mark.parametrize(
    ("settings", "reader"),
    [
        ({"sizing": {"kind": "mccandlish", "max_size": 64}}, "sizing.kind mccandlish"),
        ({"learning_rate": {"scaling": "gain", "base_size": 16}}, "learning_rate.scaling gain"),
    ],
)
def test_what_reads_noise_cuts_batches_too(settings, reader):
    with pytest.raises(SettingsError, match=f"and {reader}, which measures noise on parts of a batch"):
        built(**settings)


def test_noise_of_a_ghost_norm_is_measured_on_whole_groups_and_changes_nothing():
    """48 rows are three groups of 16; halves of 24 would cut one of them in two."""
    weights = []
    for noise_every in (0, 1):
        trainer = built(noise_every=noise_every, norm="ghost", norm_group=16, sizing={"size": 48, "multiple": 16})
        trainer.step.model[3].p = 0.0
        trainer.run(Budget(steps=20))
        weights.append(torch.cat([each.flatten() for each in trainer.step.model.state_dict().values()]))

    assert trainer.stats.measurements == 20
    assert torch.allclose(*weights, atol=1e-6)


def test_follow_reaches_momentum_decay_and_batch_norm():
    followed = ("momentum", "weight_decay", "norm_momentum", "average")
    trainer = built(momentum=0.9, weight_decay=0.01, average=0.9, learning_rate={"follow": followed, "base_size": 16})
    group = applied(trainer)

    assert (group["momentum"], group["weight_decay"]) == pytest.approx((0.81, 0.02))
    assert trainer.step.model[1].momentum == pytest.approx(0.19)
    assert trainer.hyperparameters.ema_decay == pytest.approx(0.81)


def test_follow_reaches_the_betas_of_lamb():
    trainer = built(optimizer="lamb", learning_rate={"follow": ("momentum",), "base_size": 16})

    assert applied(trainer)["betas"] == pytest.approx((0.81, 0.998001))
