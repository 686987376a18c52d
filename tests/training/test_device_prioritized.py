"""A device draws by priority with the chances and weights of the host's sampler."""

import numpy as np
import pytest
import torch
from frequencies import bound, expect_frequencies

from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.prioritized import Annealed, Prioritized
from fedmb.training.device_prioritized import DevicePrioritized

CPU = torch.device("cpu")
PRIORITIES = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 40.0, 3.0, 0.7])


def stored(*args, priorities=PRIORITIES, **options):
    sampler = DevicePrioritized(*args, **options)
    sampler.bind(len(priorities), CPU)
    sampler.store(0, len(priorities), torch.from_numpy(priorities))
    return sampler


def of_the_host(*args, **options):
    sampler = bound(Prioritized(*args, kernels="numpy", **options), len(PRIORITIES))
    sampler.store(np.arange(len(PRIORITIES)), PRIORITIES)
    return sampler


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("alpha", "epsilon"), [(0.0, 1e-6), (0.6, 1e-6), (1.0, 0.05), (2.0, 0.01)])
def test_rows_come_as_often_as_from_the_host_s_sampler(alpha, epsilon, stratified):
    sampler, host = (make(alpha, epsilon=epsilon, stratified=stratified) for make in (stored, of_the_host))
    expected = host.tree.leaves / host.tree.total()
    random = torch.Generator().manual_seed(5)

    draws = [sampler.draw(400, random) for _ in range(300)]

    assert np.allclose(sampler.leaves.numpy(), host.tree.leaves, rtol=1e-14)
    drawn = torch.cat([draw.slots for draw in draws]).numpy()
    often = expected * len(drawn) > 6
    expect_frequencies(drawn[often[drawn]], np.where(often, expected, 0), stratified=stratified)
    for draw in draws[:10]:
        assert np.allclose(draw.probabilities, expected[draw.slots], rtol=1e-12)


def test_stratified_draws_take_one_row_from_each_stretch_of_the_sum():
    sampler = stored(1.0, priorities=np.full(64, 2.0))

    assert sampler.draw(64, torch.Generator().manual_seed(0)).slots.tolist() == list(range(64))


@pytest.mark.parametrize("normalize", ["rows", "batch"])
def test_weights_are_those_of_the_host_s_sampler(normalize):
    sampler, host = (make(0.6, Annealed(0.2, rows=100), normalize=normalize) for make in (stored, of_the_host))
    for seed in range(4):
        draw = host.draw(50, np.random.default_rng(seed))
        sampler.draw(50, torch.Generator().manual_seed(seed))

        weights = sampler.weights(torch.from_numpy(draw.probabilities), 8)

        assert weights.dtype == torch.float32
        assert np.allclose(weights, host.weights(draw, 8), rtol=1e-6)


def test_new_rows_have_the_highest_priority_ever_given_or_a_fixed_one():
    first, later, fixed = (DevicePrioritized(1.0, epsilon=0.5, **extra) for extra in ({}, {}, {"initial": 3.0}))
    for sampler in (first, later, fixed):
        sampler.bind(4, CPU)
        sampler.store(0, 1, None)
    for sampler in (later, fixed):
        for priority in (7.0, 0.25):
            sampler.reprioritize(torch.tensor([0]), torch.tensor([priority]).double(), torch.tensor([True]))
        sampler.store(5, 2, None)

    assert first.leaves.tolist() == [1.5, 0, 0, 0]
    assert later.leaves.tolist() == [0.75, 7.5, 7.5, 0]
    assert fixed.leaves.tolist() == [0.75, 3.5, 3.5, 0]


def test_a_priority_that_is_none_makes_a_row_a_new_one():
    sampler = stored(1.0, epsilon=0.5, priorities=np.array([np.nan, -1.0, 3.0, np.inf, 1e101, 1e100]))

    assert sampler.leaves.tolist() == [1.5, 1.5, 3.5, 1.5, 1.5, 1e100]
    sampler.store(0, 1, None)
    assert sampler.leaves[0] == 1e100


def test_rows_go_round_the_end():
    sampler = DevicePrioritized(1.0, epsilon=0.5)
    sampler.bind(4, CPU)

    sampler.store(3, 3, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    assert sampler.leaves.tolist() == [2.5, 3.5, 0, 1.5]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epsilon": 0.0}, "epsilon must be 1e-100 or more on a device"),
        ({"alpha": 3.0}, "alpha must be 0 to 2"),
        ({"beta": 1.5}, "beta must be 0 to 1"),
        ({"initial": "mean"}, "initial must be 'max'"),
        ({"normalize": "all"}, "normalize must be rows or batch"),
    ],
)
def test_settings_out_of_range_are_refused(options, sentence):
    with pytest.raises(SettingsError, match=sentence):
        DevicePrioritized(**options)


def test_a_sampler_serves_one_ring():
    sampler = stored()

    with pytest.raises(SettingsError, match="serves one ring"):
        sampler.bind(8, CPU)


def test_a_state_of_another_sampler_is_refused():
    with pytest.raises(ShapeError, match="prioritised ring, got NoneType"):
        stored().load_state_dict(None)
