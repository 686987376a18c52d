import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedmb.errors import SettingsError, ShapeError
from fedmb.seeding import generator
from fedmb.tasks.digits import Digits
from fedmb.training.norm import FrozenNorm, GhostNorm, frozen_norm, ghost_norm, group_norm, layer_norm
from fedmb.training.travelling import travelling


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def rows(count, *shape, seed=0):
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_in_parts(model, x, size):
    for part in x.split(size):
        (model(part).square().sum() / len(x)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


def close(one, other):
    return (one - other).abs().max() <= 1e-12 * other.abs().max()


def group_by_group(layer, x, group):
    """Slow reference: batch norm itself, one group after the other."""
    return torch.cat([layer(part) for part in x.split(group)])


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 4, 3)])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("count", [4, 12, 14, 3])
def test_ghost_norm_is_batch_norm_group_by_group(shape, momentum, count):
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    plain = kind(5, momentum=momentum).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    ghost = ghost_norm(copy.deepcopy(plain), 4)
    x, y = (rows(count, *shape).requires_grad_() for _ in range(2))
    expected, got = group_by_group(plain, x, 4), ghost(y)
    (expected**3).sum().backward()
    (got**3).sum().backward()

    assert close(got, expected)
    assert close(y.grad, x.grad)
    assert close(ghost.weight.grad, plain.weight.grad)
    assert close(ghost.running_mean, plain.running_mean)
    assert close(ghost.running_var, plain.running_var)
    assert ghost.num_batches_tracked == plain.num_batches_tracked == -(-count // 4)
    assert close(ghost.eval()(x), plain.eval()(x))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 100))
def test_micro_batches_of_whole_ghost_groups_change_nothing(count, groups, seed):
    x = rows(count, 6, seed=seed)
    whole, parted = ghost_norm(mlp(seed), 4), ghost_norm(mlp(seed), 4)

    assert close(gradient_in_parts(parted, x, 4 * groups), gradient_in_parts(whole, x, count))
    assert close(parted[1].running_var, whole[1].running_var)
    assert torch.equal(parted[1].num_batches_tracked, whole[1].num_batches_tracked)


@pytest.mark.parametrize("swap", [lambda model: group_norm(model, 2), layer_norm, frozen_norm])
def test_norms_of_single_examples_do_not_see_the_split(swap):
    x = rows(10, 6)

    assert close(gradient_in_parts(swap(mlp()), x, 3), gradient_in_parts(swap(mlp()), x, 10))


def test_batch_norm_does_see_it_which_is_why_the_others_are_here():
    x = rows(32, 6)
    whole = gradient_in_parts(mlp(), x, 32)
    difference = (gradient_in_parts(mlp(), x, 4) - whole).norm() / whole.norm()
    print(f"batch norm: micro-batches of 4 move the gradient by {difference:.0%}")

    assert difference > 0.1


def test_a_lone_row_is_normalised_by_the_running_statistics_and_leaves_them_alone():
    model = ghost_norm(mlp(), 4)
    model(rows(8, 6))
    mean, tracked = model[1].running_mean.clone(), model[1].num_batches_tracked.clone()
    row = rows(1, 6, seed=5)
    trained = model(row)

    assert torch.equal(model[1].running_mean, mean)
    assert torch.equal(model[1].num_batches_tracked, tracked)
    assert close(trained, model.eval()(row))


def test_a_lone_row_without_running_statistics_is_refused():
    layer = GhostNorm(3, group=2, track_running_stats=False)

    with pytest.raises(ShapeError, match="more than one value a channel"):
        layer(torch.ones(1, 3))
    assert layer(torch.ones(1, 3, 2)).shape == (1, 3, 2)


def test_half_precision_keeps_statistics_in_fp32():
    layer = GhostNorm(4, group=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(torch.randn(8, 4).bfloat16())

    assert torch.isfinite(outputs).all()
    assert layer.running_var.dtype == torch.float32


def test_surgery_keeps_names_parameters_and_mode():
    model = mlp().eval()
    before = dict(model.state_dict(keep_vars=True))
    after = ghost_norm(model, 4).state_dict(keep_vars=True)

    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert not model[1].training


def test_a_layer_used_twice_stays_one_layer_and_a_bare_layer_is_swapped_too():
    norm = nn.BatchNorm1d(3)
    model = ghost_norm(nn.Sequential(norm, nn.ReLU(), norm), 2)

    assert model[0] is model[2]
    assert isinstance(ghost_norm(nn.BatchNorm1d(3), 2), GhostNorm)


def test_layer_norm_on_features_is_torchs_layer_norm():
    x = rows(5, 8)
    swapped = layer_norm(nn.BatchNorm1d(8).double())

    assert close(swapped(x), functional.layer_norm(x, (8,)))


def test_a_frozen_norm_computes_what_evaluation_computes_and_never_learns():
    model = mlp()
    model(rows(16, 6, seed=3))
    x = rows(4, 6)
    expected = copy.deepcopy(model).eval()(x)
    frozen = frozen_norm(model).train()
    mean = frozen[1].running_mean.clone()

    assert torch.equal(frozen(x), expected)
    assert torch.equal(frozen[1].running_mean, mean)
    assert isinstance(frozen[1], FrozenNorm)
    assert not any(parameter.requires_grad for parameter in frozen[1].parameters())
    assert frozen[0].weight.requires_grad


def test_what_cannot_be_swapped_is_refused():
    with pytest.raises(SettingsError, match="at least 2 rows, got 1"):
        ghost_norm(mlp(), 1)
    with pytest.raises(SettingsError, match="divide the 8 channels"):
        group_norm(mlp(), 3)
    with pytest.raises(SettingsError, match="run the model once"):
        ghost_norm(nn.Sequential(nn.LazyBatchNorm1d()), 4)
    with pytest.raises(SettingsError, match="needs running statistics"):
        frozen_norm(nn.BatchNorm1d(3, track_running_stats=False))


def test_what_travels_is_chosen_by_type_and_no_counter_travels():
    model = nn.Sequential(nn.Linear(2, 3), GhostNorm(3, group=2), nn.Sequential(nn.BatchNorm1d(3)), nn.LayerNorm(3))
    linear, layer = {"0.weight", "0.bias"}, {"3.weight", "3.bias"}
    affine = {"1.weight", "1.bias", "2.0.weight", "2.0.bias"}
    running = {f"{name}.running_{what}" for name in ("1", "2.0") for what in ("mean", "var")}

    assert travelling(model, "all") == linear | layer | affine | running
    assert travelling(model, "silobn") == linear | layer | affine
    assert travelling(model, "fedbn") == linear | layer
    assert travelling(nn.BatchNorm1d(3), "fedbn") == set()
    with pytest.raises(SettingsError, match="all, fedbn, silobn"):
        travelling(model, "local")


def test_a_layer_used_twice_stays_under_both_its_names():
    norm = nn.BatchNorm1d(3)

    assert travelling(nn.Sequential(norm, nn.Linear(3, 3), norm), "fedbn") == {"1.weight", "1.bias"}


def shifted_digits():
    """Digits at four sites, each with a strong affine shift of every feature of its own."""
    task = Digits()
    sites = []
    for site in range(4):
        random = generator(0, "shift", site)
        scale, offset = np.exp(1.5 * random.standard_normal(64)), 3 * random.standard_normal(64)
        parts = []
        for table in (task.train_rows(), task.test_rows()):
            x = (table["image"][site::4] / 16 * scale + offset).astype(np.float32)
            parts.append((torch.from_numpy(x), torch.from_numpy(table["label"][site::4].astype(np.int64))))
        sites.append(parts)
    return sites


def local_accuracy(sites, which, rounds=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    models = [copy.deepcopy(model) for _ in sites]
    names = travelling(model, which)
    for _ in range(rounds):
        for each, ((x, y), _) in zip(models, sites, strict=True):
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            for chosen in torch.randperm(len(x)).tensor_split(len(x) // 16):
                optimizer.zero_grad()
                functional.cross_entropy(each(x[chosen]), y[chosen]).backward()
                optimizer.step()
        states = [each.state_dict() for each in models]
        for name in names:
            mean = torch.stack([state[name] for state in states]).mean(0)
            for state in states:
                state[name].copy_(mean)
    hits = [
        (each.eval()(x).argmax(1) == y).float().mean().item() for each, (_, (x, y)) in zip(models, sites, strict=True)
    ]
    return sum(hits) / len(hits)


def test_under_feature_shift_averaged_batch_norm_fails_and_local_batch_norm_learns():
    sites = shifted_digits()
    accuracy = {which: local_accuracy(sites, which) for which in ("all", "silobn", "fedbn")}
    print("mean local accuracy: " + ", ".join(f"{which} {value:.3f}" for which, value in accuracy.items()))

    assert accuracy["all"] < 0.5
    assert accuracy["silobn"] > 0.85
    assert accuracy["fedbn"] > 0.85
