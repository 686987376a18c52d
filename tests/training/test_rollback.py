import copy

import pytest
import torch
from torch import nn

from fedmb.errors import SettingsError
from fedmb.training.rollback import KeptBuffers, RollbackPoint


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def learn(model, optimizer, seed):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_going_back_restores_parameters_buffers_and_optimizer_bitwise():
    model, optimizer = build()
    point = RollbackPoint(model, optimizer, every=2)
    for seed in range(4):
        learn(model, optimizer, seed)
        point.after_step()
    good, straight = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    learn(model, optimizer, 10)
    continued = copy.deepcopy(model.state_dict())
    learn(model, optimizer, 11)
    point.restore()

    assert same(model.state_dict(), straight)
    assert all(parameter.grad is None for parameter in model.parameters())
    learn(model, optimizer, 10)
    assert same(model.state_dict(), continued)
    point.restore()
    assert same(model.state_dict(), good.state_dict())


def test_a_copy_is_kept_every_so_many_good_steps():
    model, optimizer = build()
    point = RollbackPoint(model, optimizer, every=3)
    states = [copy.deepcopy(model.state_dict())]
    kept = []
    for seed in range(7):
        learn(model, optimizer, seed)
        states.append(copy.deepcopy(model.state_dict()))
        point.after_step()
        kept.append(next(step for step, state in enumerate(states) if same(point.state_dict()["model"], state)))

    assert kept == [0, 0, 3, 3, 3, 6, 6]


def test_a_resumed_point_goes_back_to_the_same_place():
    model, optimizer = build()
    point = RollbackPoint(model, optimizer, every=2)
    for seed in range(3):
        learn(model, optimizer, seed)
        point.after_step()
    state = point.state_dict()
    point.restore()
    other, its_optimizer = build()
    resumed = RollbackPoint(other, its_optimizer, every=2)
    resumed.load_state_dict(state)
    learn(other, its_optimizer, 99)
    resumed.restore()

    assert same(other.state_dict(), model.state_dict())
    assert state["steps"] == 1


def test_every_below_one_is_refused():
    model, optimizer = build()

    with pytest.raises(SettingsError, match="got 0"):
        RollbackPoint(model, optimizer, every=0)


def test_a_bad_batch_leaves_no_trace_in_running_statistics():
    model, optimizer = build()
    buffers = KeptBuffers(model)
    learn(model, optimizer, 0)
    buffers.keep()
    before = copy.deepcopy(model.state_dict())
    model(torch.full((4, 3), torch.nan))
    spoilt = model[1].running_mean.isnan().all()
    buffers.restore()

    assert spoilt
    assert same(model.state_dict(), before)
