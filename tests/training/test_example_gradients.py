"""Private steps against the slow reference: one row at a time, as Opacus tests its own layers."""

import copy
import math

import numpy as np
import pytest
import torch
from small_models import MODELS, Called, built, head
from small_regression import Curve, columns
from torch import nn

from fedmb.aggregation.randomness import Unpredictable
from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import SettingsError
from fedmb.training.example_gradients import ExampleGradients
from fedmb.training.microbatch import Split
from fedmb.training.regularize import Proximal
from fedmb.training.step import TrainStep

CLIP = 1.5


def loss_of(model):
    return lambda rows: (model(rows["x"]) - rows["y"]) ** 2


def part(rows, start, stop):
    return {name: column[start:stop] for name, column in rows.items()}


def one_by_one(model, rows, clip_norm=CLIP):
    """Sum of shortened gradients: a backward pass for each row, nothing of Opacus."""
    sums = [torch.zeros_like(one) for one in model.parameters()]
    for row in range(len(rows["y"])):
        model.zero_grad(set_to_none=True)
        loss_of(model)(part(rows, row, row + 1)).sum().backward()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
        length = math.sqrt(sum(float(one.double().square().sum()) for one in gradients))
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_(gradient, alpha=min(1.0, clip_norm / length if length else 1.0))
    model.zero_grad(set_to_none=True)
    return sums


def private(model, normals=np.zeros, clip_norm=CLIP, noise_multiplier=1.0):
    return ExampleGradients(model, clip_norm=clip_norm, noise_multiplier=noise_multiplier, normals=normals)


@pytest.mark.parametrize("cuts", [(7,), (3, 7), tuple(range(1, 8))], ids=["whole", "two parts", "one by one"])
@pytest.mark.parametrize("name", MODELS)
def test_shortened_gradients_are_those_of_a_loop_over_single_rows(name, cuts):
    model, rows = built(name)
    wanted = one_by_one(copy.deepcopy(model), rows)
    gradients = private(model)
    gradients.prove(loss_of(model), rows)

    for start, stop in zip((0, *cuts), cuts, strict=False):
        gradients.backward(loss_of(model)(part(rows, start, stop)), total=1.0)

    for parameter, expected in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-5, atol=1e-6)


def batch_of(rows=30, seed=0):
    return MiniBatch(columns(rows, seed))


def step_of(split=None, *, normals=np.zeros, batch=None, noise_multiplier=1.0, clip_norm=CLIP, edits=False, **parts):
    """Parameters after a step, and before."""
    torch.manual_seed(0)
    model = Curve().build_model()
    before = [one.detach().clone() for one in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    drawn = normals() if isinstance(normals, type) else normals
    step = TrainStep(
        Curve(),
        model,
        optimizer,
        split=split,
        private=private(model, getattr(drawn, "normals", drawn), clip_norm, noise_multiplier),
        edits=[Proximal(0.5, model.parameters())] if edits else (),
        **parts,
    )
    report = step(batch_of() if batch is None else batch)
    return torch.cat(
        [(old - new).detach().flatten() for old, new in zip(before, model.parameters(), strict=True)]
    ), report


def seeded(count):
    return np.random.default_rng(5).standard_normal(count)


@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batches_change_nothing_that_is_learnt(size, edits):
    whole, _ = step_of(normals=seeded, edits=edits)
    cut, _ = step_of(Split.fixed(size), normals=seeded, edits=edits)

    assert torch.allclose(whole, cut, rtol=1e-5, atol=1e-7)


def test_without_noise_and_with_a_clip_that_nobody_reaches_a_step_is_the_usual_one():
    torch.manual_seed(0)
    model = Curve().build_model()
    before = torch.cat([one.detach().flatten() for one in model.parameters()])
    TrainStep(Curve(), model, torch.optim.SGD(model.parameters(), lr=1.0))(batch_of())
    usual = before - torch.cat([one.detach().flatten() for one in model.parameters()])

    moved, report = step_of(clip_norm=1e9)

    assert torch.allclose(moved, usual, rtol=1e-5, atol=1e-6)
    assert report.units == 30


@pytest.mark.parametrize("value", [1e3, 1e18, math.inf, math.nan])
def test_a_row_whatever_is_in_it_moves_the_sum_by_the_clip_at_most(value):
    honest = batch_of()
    with_bad = {name: column.copy() for name, column in honest.columns.items()}
    with_bad["x"][4], with_bad["y"][4] = value, -value
    without = {name: np.delete(column, 4, axis=0) for name, column in honest.columns.items()}

    bad, _ = step_of(batch=MiniBatch(with_bad))
    blank, _ = step_of(batch=MiniBatch(without, expected=30))

    assert 0 <= float((bad - blank).norm()) * 30 <= CLIP * (1 + 1e-4)


def test_noise_has_the_deviation_that_it_says_whatever_the_parts():
    draws = []
    for split in (None, Split.fixed(4)):
        with_noise, _ = step_of(split, normals=Unpredictable, noise_multiplier=40.0)
        without, _ = step_of(split)
        draws += ((with_noise - without) * 30 / (40.0 * CLIP)).tolist()

    chi_square = float(np.square(draws).sum())
    freedom = len(draws)
    assert freedom == 2 * 65
    assert abs(chi_square - freedom) < 4.5 * math.sqrt(2 * freedom)
    assert abs(np.mean(draws)) < 4.5 / math.sqrt(freedom)


def test_an_empty_batch_is_noised_like_any_other():
    none = {name: column[:0] for name, column in columns().items()}

    moved, report = step_of(normals=seeded, batch=MiniBatch(none, expected=16))

    assert torch.allclose(moved.double() * 16 / CLIP, torch.from_numpy(seeded(65)), rtol=1e-4, atol=1e-5)
    assert (report.rows, report.units) == (16, 16.0)


def test_a_batch_of_chance_is_divided_by_what_was_to_be_expected():
    rows = columns(20)

    as_many, _ = step_of(batch=MiniBatch(rows))
    more, _ = step_of(batch=MiniBatch(rows, expected=10))

    assert torch.allclose(more, as_many * 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("told", [{"units": np.ones(30, np.float32)}, {"mask": np.ones(30, bool)}])
def test_rows_that_weigh_differently_are_refused(told):
    with pytest.raises(SettingsError, match="bounds each row alike, got rows with units or a mask"):
        step_of(batch=MiniBatch(columns(30), **told))


MIXING = {
    "a mean over rows": lambda own, x: own.out(x - x.mean(0))[:, 0],
    "sorted rows": lambda own, x: own.out(x.sort(0).values)[:, 0],
    "rows of which the first axis is not that of the layer": lambda own, x: own.out(x.T.reshape(-1, 6))[:, 0],
}


@pytest.mark.parametrize("forward", MIXING.values(), ids=MIXING)
def test_a_model_that_mixes_rows_is_found_on_the_first_batch(forward):
    model = Called(forward, out=head(6))
    rows = {"x": torch.randn(7, 6), "y": torch.randn(7)}

    with pytest.raises(SettingsError, match="must not depend on rows beside it, got a model where it does; remove"):
        private(model).prove(loss_of(model), rows)


@pytest.mark.parametrize(
    "forward",
    [
        lambda own, x: own.out(x)[:, 0] + x @ own.out.weight[0],
        lambda own, x: nn.functional.linear(x, own.out.weight, own.out.bias)[:, 0],
        lambda own, x: own.out(x.repeat(2, 1))[: len(x), 0],
    ],
    ids=["a layer's weight used beside it", "a layer that is never called", "a layer called with other rows"],
)
def test_a_gradient_that_hooks_do_not_see_is_refused(forward):
    model = Called(forward, out=head(6))
    rows = {"x": torch.randn(7, 6), "y": torch.randn(7)}

    with pytest.raises(SettingsError, match=r"every example must have a gradient of its own, got .* of 'out.weight'"):
        private(model).prove(loss_of(model), rows)


def test_a_row_that_breaks_proves_nothing_and_the_next_batch_is_asked():
    model = Called(MIXING["a mean over rows"], out=head(6))
    rows = {"x": torch.randn(7, 6), "y": torch.randn(7)}
    gradients = private(model)
    gradients.prove(loss_of(model), {**rows, "y": torch.full((7,), math.nan)})

    with pytest.raises(SettingsError, match="must not depend on rows beside it"):
        gradients.prove(loss_of(model), rows)


@pytest.mark.parametrize("mixes", [False, True])
def test_dropout_rests_while_rows_are_proved_and_nothing_is_drawn(mixes):
    forward = MIXING["a mean over rows"] if mixes else lambda own, x: own.out(x)[:, 0]
    model = Called(lambda own, x: forward(own, own.drops(x)), drops=nn.Dropout(0.5), out=head(6))
    rows = {"x": torch.randn(7, 6), "y": torch.randn(7)}
    gradients = private(model)
    torch.manual_seed(3)

    if mixes:
        with pytest.raises(SettingsError, match="must not depend on rows beside it"):
            gradients.prove(loss_of(model), rows)
    else:
        gradients.prove(loss_of(model), rows)
        assert not gradients.wants_proof

    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert model.drops.p == 0.5


def test_other_random_numbers_prove_nothing_and_the_log_says_so(caplog):
    model = Called(lambda own, x: own.out(x + torch.randn_like(x))[:, 0], out=head(6))
    with caplog.at_level("INFO"):
        private(model).prove(loss_of(model), {"x": torch.randn(7, 6), "y": torch.randn(7)})

    assert "not proved independent" in caplog.text


def test_a_model_that_mixes_rows_is_found_by_its_first_step_whatever_the_parts():
    class Mixed(Curve):
        def forward(self, model, rows):
            return super().forward(model, {"x": rows["x"] - rows["x"].mean(0)})

    model = Curve().build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(Mixed(), model, optimizer, split=Split.fixed(1), private=private(model))

    with pytest.raises(SettingsError, match="must not depend on rows beside it"):
        step(batch_of())


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.BatchNorm1d(6), "must not depend on rows beside it, got BatchNorm1d.*; set training.norm to group"),
        (nn.BatchNorm1d(6, affine=False), "got BatchNorm1d"),
        (nn.LSTM(6, 6, batch_first=True), "those that Opacus knows, got .*LSTM"),
        (nn.MultiheadAttention(6, 2, batch_first=True), "those that Opacus knows, got .*Attention"),
    ],
)
def test_a_layer_that_mixes_rows_or_that_opacus_does_not_know_is_refused(layer, sentence):
    with pytest.raises(SettingsError, match=sentence):
        private(nn.Sequential(nn.Linear(6, 6), layer))
