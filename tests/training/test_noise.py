import numpy as np
import pytest
import torch
from torch import nn

from fedmb.sizing.noise_scale import moments
from fedmb.training.noise import GroupNorms


def measured(sizes, scale=1.0, seed=0):
    """Groups of a least-squares batch, measured while its gradients add up, beside the gradients themselves."""
    torch.manual_seed(seed)
    model = nn.Linear(5, 1).double()
    x, y = torch.randn(sum(sizes), 5).double(), torch.randn(sum(sizes)).double()
    norms = GroupNorms(list(model.parameters()), sum(sizes), scale=scale)
    rows, gradients = [], []
    for part in torch.arange(sum(sizes)).split(sizes):
        losses = (model(x[part])[:, 0] - y[part]) ** 2
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), model.parameters())]))
        losses = (model(x[part])[:, 0] - y[part]) ** 2
        losses.backward(torch.full((len(part),), scale / sum(sizes), dtype=torch.float64))
        norms.add(len(part))
        rows.append(len(part))
    return norms.report(), torch.stack(gradients), rows


@pytest.mark.parametrize("sizes", [[8, 8], [8, 8, 8, 2], [1] * 12, [30, 2]])
def test_norms_are_those_of_each_groups_mean_gradient(sizes):
    groups, gradients, rows = measured(sizes)
    mean = (gradients * torch.tensor(rows)[:, None]).sum(0) / sum(rows)

    assert groups.sizes == rows
    assert groups.square_norms == pytest.approx(gradients.square().sum(1).tolist(), rel=1e-12)
    assert groups.total_square_norm == pytest.approx(float(mean.square().sum()), rel=1e-12)


def test_a_gradient_scalers_factor_is_taken_out():
    assert measured([8, 8, 2], scale=65536.0)[0].square_norms == pytest.approx(measured([8, 8, 2])[0].square_norms)


def test_single_rows_give_the_sample_covariance():
    groups, gradients, _ = measured([1] * 40)

    assert moments(*groups).trace == pytest.approx(float(np.trace(np.cov(gradients.numpy().T))), rel=1e-9)


def test_one_group_tells_nothing():
    assert measured([9])[0] is None


def test_a_group_without_units_is_no_group():
    model = nn.Linear(2, 1)
    norms = GroupNorms(list(model.parameters()), 4.0)
    for units in (2.0, 0.0, 2.0):
        (model(torch.ones(2, 2)).sum() * units / 8).backward()
        norms.add(units)

    assert norms.report().sizes == [2.0, 2.0]


def test_frozen_and_unused_parameters_do_not_count():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1), "frozen": nn.Linear(2, 1)})
    model["frozen"].requires_grad_(requires_grad=False)
    norms = GroupNorms(list(model.parameters()), 4.0)
    for _ in range(2):
        model["used"](torch.ones(2, 2)).sum().mul(0.25).backward()
        norms.add(2.0)

    assert norms.report().total_square_norm == pytest.approx(norms.report().square_norms[0])
