import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.errors import ShapeError
from fedmb.training.microbatch import Split
from fedmb.training.step import TrainStep
from fedmb.training.tally import Tally


class Regression:
    """Least squares on four features: small enough to check by hand."""

    schema = {"x": Column("float64", (4,)), "y": Column("float64")}

    def build_model(self):
        return nn.Linear(4, 1, bias=True).double()

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {"absolute": (outputs - rows["y"]).abs()}


class Averaging(Regression):
    """Breaks the rule: averages over examples itself."""

    def loss(self, outputs, rows):
        return super().loss(outputs, rows).mean()


def rows(count, seed=0, units=None, mask=None):
    random = np.random.default_rng(seed)
    columns = {"x": random.standard_normal((count, 4)), "y": random.standard_normal(count)}
    return MiniBatch(columns, units=units, mask=mask)


def tallied(report):
    tally = Tally()
    tally.add(report.seen)
    return tally.sums()


def split_of(micro_size):
    return Split.whole() if micro_size is None else Split.fixed(micro_size)


def gradients(batch, micro_size):
    torch.manual_seed(0)
    task = Regression()
    model = task.build_model()
    TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.0), split=split_of(micro_size))(batch)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def gradient_of_weighted_mean(batch):
    torch.manual_seed(0)
    task = Regression()
    model = task.build_model()
    tensors = {name: torch.from_numpy(array) for name, array in batch.columns.items()}
    units = torch.from_numpy(batch.effective_units()).double()
    loss = (task.loss(task.forward(model, tensors), tensors) * units).sum() / units.sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 1000), st.booleans(), st.booleans())
def test_gradient_is_the_weighted_mean_for_any_split(count, micro_size, seed, with_units, with_mask):
    random = np.random.default_rng(seed)
    units = random.uniform(0.1, 3, count).astype(np.float32) if with_units else None
    mask = random.random(count) < 0.7 if with_mask else None
    if mask is not None:
        mask[0] = True
    batch = rows(count, seed, units, mask)

    assert torch.allclose(gradients(batch, micro_size), gradient_of_weighted_mean(batch), rtol=1e-12, atol=1e-12)


def test_a_short_last_micro_batch_weighs_by_its_rows():
    batch = rows(50, seed=3)

    assert torch.allclose(gradients(batch, 8), gradients(batch, None), rtol=1e-12)


def test_sums_do_not_depend_on_the_split():
    batch = rows(37, seed=5)
    task = Regression()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.0))
    whole = step(batch)
    step.split = Split.fixed(5)
    parts = step(batch)

    assert whole.units == parts.units == 37
    assert len(parts.seen) == 8
    assert tallied(whole) == pytest.approx(tallied(parts), rel=1e-12)


def test_a_batch_whose_rows_are_all_masked_leaves_the_model_alone():
    task = Regression()
    model = task.build_model()
    before = model.weight.detach().clone()
    report = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=1.0))(rows(4, mask=np.zeros(4, bool)))

    assert report.units == 0
    assert torch.equal(model.weight, before)


def test_a_task_that_averages_is_told_so():
    task = Averaging()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.1))

    with pytest.raises(ShapeError, match="one value an example"):
        step(rows(4))


def test_one_step_is_gradient_descent_on_least_squares():
    batch = rows(10, seed=9)
    torch.manual_seed(0)
    task = Regression()
    model = task.build_model()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    x, y = torch.from_numpy(batch.columns["x"]), torch.from_numpy(batch.columns["y"])
    error = x @ weight[0] + bias - y
    TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.1), split=Split.fixed(3))(batch)

    assert torch.allclose(model.weight[0], weight[0] - 0.1 * 2 * (error[:, None] * x).mean(0), rtol=1e-12)
    assert torch.allclose(model.bias, bias - 0.1 * 2 * error.mean(), rtol=1e-12)
