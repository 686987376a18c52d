import copy

import pytest
import torch
from torch import nn

from fedmb.errors import Diverged, SettingsError
from fedmb.training.precision import Precision


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def table(rows=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 16, generator=generator), torch.randn(rows, generator=generator)


def backward(precision, model, size, forward=None):
    """Scaled gradients of the mean loss, in micro-batches of `size`."""
    x, y = table()
    for part, wanted in zip(x.split(size), y.split(size), strict=True):
        with forward or precision.forward():
            losses = (model(part)[:, 0] - wanted) ** 2
        precision.scaled(losses.float().sum() / len(x)).backward()


def gradient(name, size=40, forward=None):
    precision, model = Precision(name, initial_scale=1024), mlp()
    backward(precision, model, size, forward)
    precision.unscale(sgd(model))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


def test_fp32_is_plain_torch_bit_for_bit():
    model, (x, y) = mlp(), table()
    (((model(x)[:, 0] - y) ** 2).sum() / len(x)).backward()

    assert torch.equal(gradient("fp32"), torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))


def test_the_scale_itself_changes_no_bit():
    assert torch.equal(gradient("fp16", forward=torch.enable_grad()), gradient("fp32"))


def test_accumulation_under_the_scaler_is_exact():
    error = relative(gradient("fp16", 7, torch.enable_grad()), gradient("fp32"))
    print(f"accumulation under the fp16 scaler: relative error {error:.1e}")

    assert error < 5e-7


@pytest.mark.parametrize(("name", "bound"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_low_precision_gradients_are_near_those_of_fp32(name, bound):
    error = relative(gradient(name), gradient("fp32"))
    print(f"{name} autocast: relative gradient error {error:.1e}")

    assert 0 < error < bound


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_parameters_and_gradients_stay_fp32(name):
    model = mlp()
    backward(Precision(name), model, 40)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_overflow_skips_the_step_and_halves_the_scale():
    precision, model = Precision("fp16"), mlp()
    optimizer, before = sgd(model), copy.deepcopy(model.state_dict())
    backward(precision, model, 8)
    model[0].weight.grad[0, 0] = torch.inf
    precision.unscale(optimizer)

    assert precision.step(optimizer) is False
    assert precision.scale == 32768
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_good_step_is_taken_and_said_so(name):
    precision, model = Precision(name, initial_scale=1024), mlp()
    optimizer, before = sgd(model), model[0].weight.detach().clone()
    backward(precision, model, 40)
    precision.unscale(optimizer)

    assert precision.step(optimizer) is True
    assert not torch.equal(model[0].weight, before)


def test_fused_optimizers_skip_too():
    precision, model = Precision("fp16"), mlp()
    optimizer, before = torch.optim.SGD(model.parameters(), lr=0.1, fused=True), model[0].weight.detach().clone()
    backward(precision, model, 40)
    model[0].weight.grad[0, 0] = torch.nan
    precision.unscale(optimizer)

    assert precision.step(optimizer) is False
    assert torch.equal(model[0].weight, before)


def test_the_scale_grows_once_a_batch_and_not_once_a_micro_batch():
    precision, model = Precision("fp16", growth_interval=2, initial_scale=256), mlp()
    optimizer, scales = sgd(model), []
    for _ in range(4):
        optimizer.zero_grad()
        backward(precision, model, 5)
        precision.unscale(optimizer)
        precision.step(optimizer)
        scales.append(precision.scale)

    assert scales == [256, 512, 512, 1024]


def test_unscaling_twice_is_an_error():
    precision, model = Precision("fp16"), mlp()
    optimizer = sgd(model)
    backward(precision, model, 40)
    precision.unscale(optimizer)

    with pytest.raises(RuntimeError, match="already been called"):
        precision.unscale(optimizer)


def test_a_skipped_batch_leaves_the_parameters_and_frees_the_scaler_for_the_next():
    precision, model = Precision("fp16", initial_scale=1024), mlp()
    optimizer = sgd(model)
    backward(precision, model, 40)
    model[0].weight.grad[0, 0] = torch.inf
    precision.unscale(optimizer)
    precision.skip()

    assert precision.scale == 512
    optimizer.zero_grad()
    backward(precision, model, 40)
    precision.unscale(optimizer)
    assert precision.step(optimizer) is True


def test_a_loss_that_is_never_finite_ends_the_run():
    precision, model = Precision("fp16", initial_scale=2.0**-23), mlp()
    optimizer = sgd(model)

    def overflow():
        optimizer.zero_grad()
        backward(precision, model, 40)
        model[0].weight.grad[0, 0] = torch.nan
        precision.unscale(optimizer)
        return precision.step(optimizer)

    assert overflow() is False
    with pytest.raises(Diverged, match="finite at some scale"):
        overflow()


def test_state_goes_on_where_it_was():
    precision, model = Precision("fp16", growth_interval=3, initial_scale=1024), mlp()
    optimizer = sgd(model)
    for _ in range(2):
        optimizer.zero_grad()
        backward(precision, model, 40)
        precision.unscale(optimizer)
        precision.step(optimizer)
    resumed = Precision("fp16", growth_interval=3, initial_scale=1024)
    resumed.load_state_dict(precision.state_dict())
    optimizer.zero_grad()
    backward(resumed, model, 40)
    resumed.unscale(optimizer)
    resumed.step(optimizer)

    assert resumed.scale == 2048
    Precision("bf16").load_state_dict(Precision("bf16").state_dict())
    with pytest.raises(SettingsError, match="a bf16 state was expected"):
        Precision("bf16").load_state_dict(precision.state_dict())


def test_an_unknown_format_is_refused():
    with pytest.raises(SettingsError, match="fp32, bf16, fp16, got 'fp8'"):
        Precision("fp8")
