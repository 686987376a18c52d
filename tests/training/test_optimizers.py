import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedmb.errors import SettingsError
from fedmb.training.optimizers import Lamb, Lars, parameter_groups


def layers(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((5, 3), (4,), (2, 2, 2))]


def give_gradients(parameters, seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def relative_step(optimizer, parameters, scale=1.0):
    before = [parameter.detach().clone() for parameter in parameters]
    give_gradients(parameters, scale=scale)
    optimizer.step()
    return [((now - was).norm() / was.norm()).item() for now, was in zip(parameters, before, strict=True)]


@given(st.integers(0, 1000), st.floats(1e-3, 1.0), st.floats(1e-4, 1e-1))
def test_a_lars_step_is_lr_times_eta_of_the_weights_whatever_the_loss_is_multiplied_by(seed, lr, eta):
    for scale in (1.0, 1000.0):
        parameters = layers(seed)
        steps = relative_step(Lars(parameters, lr, eta=eta), parameters, scale)

        assert steps == pytest.approx([lr * eta] * 3, rel=1e-9)


@given(st.integers(0, 1000), st.floats(1e-3, 0.5))
def test_a_lamb_step_is_lr_of_the_weights_from_the_first_step_on(seed, lr):
    parameters = layers(seed)
    optimizer = Lamb(parameters, lr, weight_decay=0.01)

    for _ in range(3):
        assert relative_step(optimizer, parameters) == pytest.approx([lr] * 3, rel=1e-9)


def test_lars_follows_the_paper_number_by_number():
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = Lars([weight], 0.5, momentum=0.9, weight_decay=0.1, eta=0.02)
    w, u = weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for g in (torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 0.25], dtype=torch.float64)):
        u = 0.9 * u + 0.02 * w.norm() / (g.norm() + 0.1 * w.norm()) * (g + 0.1 * w)
        w = w - 0.5 * u
        weight.grad = g.clone()
        optimizer.step()

    assert torch.allclose(weight, w, rtol=1e-14)


def test_lamb_follows_the_paper_number_by_number():
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = Lamb([weight], 0.5, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    w, m, v = weight.detach().clone(), 0.0, 0.0
    for t, g in enumerate(torch.tensor([[1.0, -2.0], [0.5, 0.25], [-3.0, 1.0]], dtype=torch.float64), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        r = (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-6) + 0.1 * w
        w = w - 0.5 * w.norm() / r.norm() * r
        weight.grad = g.clone()
        optimizer.step()

    assert torch.allclose(weight, w, rtol=1e-13)


@pytest.mark.parametrize("kind", [Lars, Lamb])
def test_zero_weights_can_leave_zero(kind):
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)

    kind([weight], 0.1).step()

    assert torch.isfinite(weight).all()
    assert (weight < 0).all()


@pytest.mark.parametrize("kind", [Lars, Lamb])
def test_a_parameter_without_gradient_stays_and_a_closure_gives_its_loss(kind):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = kind([used, unused], 0.1)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))


@pytest.mark.parametrize("kind", [Lars, Lamb])
def test_sparse_gradients_are_refused(kind):
    layer = nn.Embedding(4, 2, sparse=True)
    layer(torch.tensor([1])).sum().backward()

    with pytest.raises(SettingsError, match="dense"):
        kind(layer.parameters(), 0.1).step()


def test_groups_tell_weights_from_biases_and_norms_by_type():
    norm = nn.LayerNorm([3, 4])  # its weight has two axes, and is none the less a scale
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 4), norm)
    model[2].bias.requires_grad_(requires_grad=False)

    weights, others = parameter_groups(model, weight_decay=0.1)

    assert [id(each) for each in weights["params"]] == [id(model[0].weight), id(model[2].weight)]
    assert {id(each) for each in others["params"]} == {
        id(each) for each in (model[0].bias, model[1].weight, model[1].bias, norm.weight, norm.bias)
    }
    assert (weights["weight_decay"], weights["adapt"]) == (0.1, True)
    assert (others["weight_decay"], others["adapt"]) == (0.0, False)


def test_a_shared_parameter_is_in_one_group_once_and_empty_groups_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight

    (group,) = parameter_groups(model, weight_decay=0.1)

    assert len(group["params"]) == 1


@pytest.mark.parametrize("kind", [Lars, Lamb])
def test_biases_take_the_plain_step_without_decay(kind):
    model = nn.Linear(3, 2).double()
    give_gradients(model.parameters())
    bias, gradient = model.bias.detach().clone(), model.bias.grad.clone()
    kind(parameter_groups(model, weight_decay=0.5), 0.1).step()
    step = gradient if kind is Lars else gradient / (gradient.abs() + 1e-6)

    assert torch.allclose(model.bias, bias - 0.1 * step, rtol=1e-12)


def test_values_that_no_step_can_have_are_refused():
    with pytest.raises(SettingsError, match="lr must not be negative, got -1"):
        Lars(layers(), -1)
    with pytest.raises(SettingsError, match="betas must lie below 1"):
        Lamb(layers(), 0.1, betas=(0.9, 1.0))
