import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedmb.errors import SettingsError
from fedmb.training.regularize import DropoutRule, Proximal, TimescaleDecay


def moved(seed=0):
    """A model that has moved away from where its proximal term began, and the term."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).double()
    term = Proximal(0.3, model.parameters())
    start = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model, term, start


@given(st.integers(0, 1000))
def test_the_term_is_the_gradient_of_half_mu_times_the_squared_distance(seed):
    model, term, start = moved(seed)
    x = torch.randn(5, 4, dtype=torch.float64)
    distance = sum(((w - was) ** 2).sum() for w, was in zip(model.parameters(), start, strict=True))
    expected = torch.autograd.grad(model(x).square().mean() + 0.3 / 2 * distance, list(model.parameters()))
    model(x).square().mean().backward()
    term.add_to_gradients()

    assert all(torch.allclose(p.grad, g, rtol=1e-12) for p, g in zip(model.parameters(), expected, strict=True))
    assert torch.allclose(term.penalty(), 0.3 / 2 * distance, rtol=1e-12)


def test_before_the_first_step_the_gradient_keeps_every_bit():
    model = nn.Linear(3, 1)
    term = Proximal(0.7, model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    before = model.weight.grad.clone()
    term.add_to_gradients()

    assert torch.equal(model.weight.grad, before)


def test_a_parameter_that_this_batch_did_not_use_is_pulled_back_too():
    model, term, start = moved()
    term.add_to_gradients()

    for parameter, was in zip(model.parameters(), start, strict=True):
        assert torch.allclose(parameter.grad, 0.3 * (parameter - was))


def test_mu_of_zero_makes_no_gradient():
    model = nn.Linear(3, 1)
    Proximal(0, model.parameters()).add_to_gradients()

    assert model.weight.grad is None


def test_a_new_round_pulls_towards_its_own_beginning():
    model, term, _ = moved()
    term.begin_round()
    term.add_to_gradients()

    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_a_proximal_term_resumed_within_a_round_pulls_to_the_same_place():
    model, term, _ = moved()
    resumed = Proximal(0.3, model.parameters())
    resumed.load_state_dict(term.state_dict())
    term.add_to_gradients()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    resumed.add_to_gradients()

    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


@given(st.lists(st.integers(1, 64), min_size=1, max_size=30))
def test_rows_shrink_a_weight_alike_whatever_the_batches(sizes):
    weight = torch.ones(3, dtype=torch.float64)
    decay = TimescaleDecay([weight], samples=500)
    for size in sizes:
        decay.apply(size)

    assert torch.allclose(weight, torch.full_like(weight, math.exp(-sum(sizes) / 500)), rtol=1e-12)


def test_one_epoch_at_16_or_64_rows_forgets_alike_where_adamw_does_not():
    def after_an_epoch(size):
        ours, torchs = torch.ones(1, dtype=torch.float64), nn.Parameter(torch.ones(1, dtype=torch.float64))
        decay = TimescaleDecay([ours], samples=2000)
        adamw = torch.optim.AdamW([torchs], lr=0.1, weight_decay=0.1)
        for _ in range(1024 // size):
            torchs.grad = torch.zeros_like(torchs)
            adamw.step()
            decay.apply(size)
        return ours.item(), torchs.item()

    (ours16, adamw16), (ours64, adamw64) = after_an_epoch(16), after_an_epoch(64)
    print(f"after 1,024 rows at 16 / 64: ours {ours16:.4f} / {ours64:.4f}, AdamW {adamw16:.4f} / {adamw64:.4f}")

    assert ours16 == pytest.approx(ours64, rel=1e-12)
    assert abs(adamw16 - adamw64) > 0.2


def test_decay_follows_a_schedule_where_asked():
    weight = torch.ones(1, dtype=torch.float64)
    TimescaleDecay([weight], samples=100).apply(10, factor=0.5)

    assert weight.item() == pytest.approx(math.exp(-0.05))


def test_dropout_follows_the_rule_by_type():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 2), nn.Sequential(nn.Dropout2d(0.4)))
    rule = DropoutRule(model, lambda rows, built: built * min(1.0, 32 / rows))
    rule.apply(64)
    first = (model[0].p, model[2][0].p)
    rule.apply(16)

    assert first == (0.1, 0.2)
    assert (model[0].p, model[2][0].p) == (0.2, 0.4)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SettingsError, match="negative or infinite, got -1"):
        Proximal(-1, [])
    with pytest.raises(SettingsError, match="above 0, got 0"):
        TimescaleDecay([], samples=0)
    with pytest.raises(SettingsError, match="needs a dropout layer"):
        DropoutRule(nn.Linear(2, 2), lambda rows, built: built)
    with pytest.raises(SettingsError, match=r"got 1\.5 for 8 rows"):
        DropoutRule(nn.Dropout(0.1), lambda rows, built: 1.5).apply(8)
