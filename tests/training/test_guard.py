import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fedmb.errors import SettingsError
from fedmb.training.guard import Clip, Finite, Spike, Verdict


def parameters(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 3), (4,), (2,))]
    for parameter in made[:2]:  # the last one has no gradient
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return made


def gradients(made):
    return torch.cat([parameter.grad.flatten() for parameter in made if parameter.grad is not None])


def verdicts(guard, norms):
    return [guard.judge(norm) for norm in norms]


class Unreadable(torch.Tensor):
    """A norm on a device: whoever turns it into a number waits, and is caught."""

    def __float__(self):
        raise AssertionError("the guard read the norm")


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_clipping_is_torchs(scale, max_norm):
    ours, torchs = parameters(scale), parameters(scale)
    expected = clip_grad_norm_(torchs, max_norm)
    report = Clip(max_norm)(ours)

    assert report.verdict is Verdict.OK
    assert torch.equal(report.norm, expected)
    assert torch.equal(gradients(ours), gradients(torchs))


def test_clipping_alone_does_not_wait_for_the_device(monkeypatch):
    monkeypatch.setattr("fedmb.training.guard.get_total_norm", lambda _: torch.tensor(5.0).as_subclass(Unreadable))

    assert Clip(1.0)(parameters()).verdict is Verdict.OK
    with pytest.raises(AssertionError, match="read the norm"):
        (Clip(1.0) & Finite())(parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_not_clipped(bad):
    made = parameters()
    made[0].grad[1, 1] = bad
    before = gradients(made)
    report = (Clip(1.0) & Finite())(made)

    assert report.verdict is Verdict.SKIP
    assert torch.equal(gradients(made).nan_to_num(), before.nan_to_num())


def test_a_nan_batch_leaves_the_parameters_alone_and_training_goes_on():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer, guard, seen = torch.optim.SGD(model.parameters(), lr=0.1), Clip(1.0) & Finite(), []
    for bad in (False, True, False):
        x = torch.randn(4, 3)
        x[0, 0] = math.nan if bad else x[0, 0]
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        verdict = guard(model.parameters()).verdict
        if verdict is Verdict.OK:
            optimizer.step()
        seen.append((verdict, torch.equal(before, model.weight)))

    assert seen == [(Verdict.OK, False), (Verdict.SKIP, True), (Verdict.OK, False)]
    assert torch.isfinite(model.weight).all()


def test_all_rules_share_one_norm_a_batch(monkeypatch):
    from fedmb.training import guard as module

    calls, measure = [], module.get_total_norm
    monkeypatch.setattr(module, "get_total_norm", lambda each: calls.append(1) or measure(each))
    (Clip(1.0) & Finite() & Spike())(parameters())

    assert len(calls) == 1


def test_clipping_once_a_batch_is_not_clipping_each_micro_batch():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(8, 3) * 10
    (model(x).square().sum() / 8).backward()
    Clip(1.0)(model.parameters())
    once = model.weight.grad.clone()
    model.zero_grad()
    for part in x.split(3):
        (model(part).square().sum() / 8).backward()
    Clip(1.0)(model.parameters())
    split = model.weight.grad.clone()
    model.zero_grad()
    for part in x.split(3):
        (model(part).square().sum() / 8).backward()
        Clip(1.0)(model.parameters())

    assert torch.allclose(once, split, atol=1e-6)
    assert not torch.allclose(once, model.weight.grad, atol=1e-2)


def test_the_smaller_limit_and_the_graver_verdict_hold():
    made = parameters(100)
    (Clip(5.0) & Clip(2.0))(made)

    assert gradients(made).norm() == pytest.approx(2.0, rel=1e-4)
    assert (Finite() & Spike(window=2)).judge(math.inf) is Verdict.SKIP


def test_a_spike_is_skipped_and_the_third_in_a_row_rolls_back():
    guard = Spike(factor=8, window=4)
    ok, skip, back = Verdict.OK, Verdict.SKIP, Verdict.ROLLBACK

    assert verdicts(guard, [1, 1.2, 0.9, 1.1, 50, 1.0, 50, 60, 70]) == [ok, ok, ok, ok, skip, ok, skip, skip, back]


def test_a_level_that_stays_is_learnt_anew_after_a_rollback():
    guard = Spike(factor=8, window=4)
    verdicts(guard, [1, 1, 1, 1, 50, 50, 50])

    assert verdicts(guard, [50, 50, 50, 3, 1000]) == [Verdict.OK] * 4 + [Verdict.SKIP]


def test_overflows_are_skipped_and_never_roll_back():
    guard = Spike(window=2)
    verdicts(guard, [1, 1])

    assert verdicts(guard, [math.inf, math.nan] * 5) == [Verdict.SKIP] * 10
    assert guard.judge(1.0) is Verdict.OK


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=40), st.integers(0, 39))
def test_a_resumed_guard_judges_as_the_uninterrupted_one(norms, stop):
    straight, before, after = (Clip(1.0) & Spike(2, 4) & Finite() for _ in range(3))
    expected = verdicts(straight, norms)
    first = verdicts(before, norms[:stop])
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))

    assert first + verdicts(after, norms[stop:]) == expected


def test_no_gradient_at_all_is_a_norm_of_zero():
    report = (Clip(1.0) & Finite())([nn.Parameter(torch.ones(2))])

    assert (report.verdict, report.norm.item()) == (Verdict.OK, 0.0)


def test_impossible_limits_are_refused():
    with pytest.raises(SettingsError, match="above 0, got 0"):
        Clip(0)
    with pytest.raises(SettingsError, match="factor above 1"):
        Spike(1.0)
    with pytest.raises(SettingsError, match="patience of 1 or more"):
        Spike(patience=0)
