"""A policy serves one table, of at least one slot, and its state fits that table's capacity only."""

import numpy as np
import pytest
from frequencies import bound

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

SAMPLERS = {
    "uniform": Uniform,
    "prioritized": Prioritized,
    "recency": lambda: Recency(3.0),
    "passes": WithoutReplacement,
}
REMOVERS = {
    "fifo": Fifo,
    "lifo": Lifo,
    "lowest": LowestPriority,
    "reservoir": Reservoir,
    "classes": lambda: ClassBalanced("y"),
}


@pytest.mark.parametrize("make", (SAMPLERS | REMOVERS).values(), ids=SAMPLERS | REMOVERS)
def test_a_policy_serves_one_table_of_a_slot_or_more(make):
    policy = make()

    with pytest.raises(SettingsError, match="1 row or more, got 0"):
        policy.bind(0)
    policy.bind(4)
    with pytest.raises(SettingsError, match="serves one table"):
        policy.bind(4)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_nothing_can_be_drawn_before_a_row_is_stored_or_after_all_are_dropped(make):
    sampler, random = bound(make(), 5), np.random.default_rng(0)

    with pytest.raises(NotEnoughData):
        sampler.draw(1, random)
    sampler.store(np.array([0, 1, 2]), None)
    assert set(sampler.draw(3, random).slots.tolist()) <= {0, 1, 2}
    sampler.drop(np.array([1]))
    assert set(sampler.draw(2, random).slots.tolist()) <= {0, 2}
    sampler.drop(np.array([2, 0]))
    with pytest.raises(NotEnoughData):
        sampler.draw(1, random)
    sampler.store(np.array([4]), None)
    assert sampler.draw(1, random).slots.tolist() == [4]


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_storing_dropping_and_weighing_nothing_is_allowed(make):
    sampler, none = bound(make(), 5), np.empty(0, np.int64)

    sampler.store(none, None)
    sampler.store(none, np.empty(0))
    sampler.drop(none)
    sampler.reprioritize(none, np.empty(0))
    sampler.store(np.array([0]), None)

    assert sampler.draw(1, np.random.default_rng(0)).slots.dtype == np.int64


@pytest.mark.parametrize("make", REMOVERS.values(), ids=REMOVERS)
def test_placing_and_dropping_nothing_is_allowed(make):
    remover, none = bound(make(), 5), np.empty(0, np.int64)

    assert len(remover.place(0, {"y": none}, np.random.default_rng(0))) == 0
    remover.drop(none)
    remover.reprioritize(none, np.empty(0))
    assert remover.place(2, {"y": np.array([0, 1])}, np.random.default_rng(0)).tolist() == [0, 1]


@pytest.mark.parametrize("make", [Prioritized, lambda: Recency(3.0), WithoutReplacement, LowestPriority, Lifo])
def test_the_state_of_another_capacity_is_refused(make):
    other = bound(make(), 9)
    if hasattr(other, "store"):
        other.store(np.arange(9), None)
    else:
        other.place(9, {}, np.random.default_rng(0))

    with pytest.raises(ShapeError):
        bound(make(), 5).load_state_dict(other.state_dict())
