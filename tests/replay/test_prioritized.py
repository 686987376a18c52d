"""Rows are drawn in proportion to a power of their priorities, and weights undo that."""

import math

import numpy as np
import pytest
from frequencies import bound, expect_frequencies

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.prioritized import Annealed, Prioritized

PRIORITIES = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 40.0, 3.0, 0.7])


def stored(*args, priorities=PRIORITIES, capacity=None, **options):
    sampler = bound(Prioritized(*args, **options), capacity or len(priorities))
    sampler.store(np.arange(len(priorities)), priorities)
    return sampler


def chances(priorities, alpha, epsilon):
    """The slow reference: equation 1 of the paper, with proportional priorities."""
    powers = (priorities + epsilon) ** alpha
    return powers / powers.sum()


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("alpha", "epsilon"), [(0.0, 0.0), (0.6, 1e-6), (1.0, 0.0), (2.0, 0.01)])
def test_rows_are_drawn_in_proportion_to_the_power_of_their_priorities(alpha, epsilon, stratified):
    sampler, expected = stored(alpha, epsilon=epsilon, stratified=stratified), chances(PRIORITIES, alpha, epsilon)

    draws = [sampler.draw(400, np.random.default_rng(seed)) for seed in range(300)]

    drawn = np.concatenate([draw.slots for draw in draws])
    often = expected * len(drawn) > 6
    expect_frequencies(drawn[often[drawn]], np.where(often, expected, 0), stratified=stratified)
    for draw in draws[:10]:
        assert np.allclose(draw.probabilities, expected[draw.slots], rtol=1e-12)


def test_without_epsilon_a_row_of_priority_zero_is_never_drawn_and_dropped_rows_never_are():
    sampler = stored(0.6, epsilon=0.0)
    sampler.drop(np.array([5]))

    assert set(sampler.draw(5000, np.random.default_rng(0)).slots.tolist()) == {1, 2, 3, 4, 6, 7}


def test_new_rows_have_the_highest_priority_ever_given_or_a_fixed_one():
    first, later, fixed = (bound(Prioritized(1.0, epsilon=0.5, **extra), 4) for extra in ({}, {}, {"initial": 3.0}))
    for sampler in (first, later, fixed):
        sampler.store(np.array([0]), None)
    for sampler in (later, fixed):
        sampler.reprioritize(np.array([0]), np.array([7.0]))
        sampler.reprioritize(np.array([0]), np.array([0.25]))
        sampler.store(np.array([1, 2]), None)

    assert first.tree.leaves.tolist() == [1.5, 0, 0, 0]
    assert later.tree.leaves.tolist() == [0.75, 7.5, 7.5, 0]
    assert fixed.tree.leaves.tolist() == [0.75, 3.5, 3.5, 0]


def test_weights_are_the_inverse_of_how_much_likelier_a_row_is_than_under_uniform_draws():
    sampler = stored(0.6, 0.4)
    draw = sampler.draw(64, np.random.default_rng(0))

    weights = sampler.weights(draw, 8)

    expected = (8 * chances(PRIORITIES, 0.6, 1e-6)[draw.slots]) ** -0.4
    assert weights.dtype == np.float32
    assert np.allclose(weights, expected, rtol=1e-6)
    assert np.allclose(stored(0.0, 1.0).weights(stored(0.0).draw(9, np.random.default_rng(0)), 8), 1)


def test_the_paper_s_weights_have_one_as_their_largest():
    sampler, plain = stored(0.6, 0.5, normalize="batch"), stored(0.6, 0.5)
    draw = sampler.draw(64, np.random.default_rng(0))

    weights = sampler.weights(draw, 8)

    assert weights.max() == 1
    assert np.allclose(weights / weights.min(), plain.weights(draw, 8) / plain.weights(draw, 8).min(), rtol=1e-6)


def test_fully_weighted_draws_estimate_the_mean_of_all_rows():
    sampler, values = stored(0.8, 1.0, epsilon=0.5), np.linspace(-1, 5, 8)
    units, sums = 0.0, 0.0

    for seed in range(400):
        draw = sampler.draw(64, np.random.default_rng(seed))
        weights = sampler.weights(draw, 8)
        units += weights.sum()
        sums += weights @ values[draw.slots]

    assert units / (400 * 64) == pytest.approx(1, abs=0.01)  # units count rows
    assert sums / units == pytest.approx(values.mean(), abs=0.03)


def test_weights_as_units_give_one_gradient_however_rows_are_parted():
    sampler, values = stored(0.6, 0.7), np.linspace(-1, 5, 8)
    draws = [sampler.draw(24, np.random.default_rng(seed)) for seed in range(2)]
    parts = [MiniBatch({"g": values[draw.slots]}, units=sampler.weights(draw, 8)) for draw in draws]
    slots = np.concatenate([draw.slots for draw in draws])
    together = draws[0]._replace(slots=slots, probabilities=np.concatenate([draw.probabilities for draw in draws]))
    whole = MiniBatch({"g": values[slots]}, units=sampler.weights(together, 8))

    def gradient(*batches):
        units = sum(float(batch.effective_units().sum()) for batch in batches)
        return sum(float(batch.effective_units() @ batch.columns["g"]) for batch in batches) / units

    expected = gradient(whole)
    assert gradient(*parts) == pytest.approx(expected, rel=1e-6)  # two draws weigh as one of both
    assert gradient(*(whole.rows(start, start + 5) for start in range(0, 48, 5))) == pytest.approx(expected, rel=1e-6)


def test_beta_may_follow_the_rows_drawn():
    sampler = stored(1.0, Annealed(0.2, 1.0, rows=100), normalize="batch")
    weights = []
    for seed in range(4):
        draw = sampler.draw(50, np.random.default_rng(seed))
        low, high = draw.probabilities.min(), draw.probabilities.max()
        weights.append(-math.log(sampler.weights(draw, 8).min()) / math.log(high / low))

    assert weights == pytest.approx([0.6, 1.0, 1.0, 1.0], rel=1e-5)


@pytest.mark.parametrize("wrong", [-1e-9, math.nan, math.inf, 1.1e100])
def test_priorities_that_are_negative_or_not_finite_are_refused_and_change_nothing(wrong):
    sampler = stored(0.6)
    before = sampler.tree.leaves.copy()

    for call in (sampler.reprioritize, sampler.store):
        with pytest.raises(ValueError, match="priorities must be 0 to"):
            call(np.array([1, 2, 3]), np.array([1.0, wrong, 2.0]))

    assert np.array_equal(sampler.tree.leaves, before)
    assert sampler.state_dict()["highest"] == 40


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_the_highest_priorities_allowed_can_be_summed(alpha):
    sampler = bound(Prioritized(alpha), 5000)
    sampler.store(np.arange(5000), np.full(5000, 1e100))

    assert np.isfinite(sampler.tree.total())


def test_rows_that_all_have_no_priority_cannot_be_drawn():
    with pytest.raises(NotEnoughData, match="priority above 0"):
        stored(0.6, epsilon=0.0, priorities=np.zeros(3)).draw(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((-0.1,), {}, "alpha must be 0 to 2"),
        ((math.nan,), {}, "alpha must be 0 to 2"),
        ((0.6, 1.5), {}, "beta must be 0 to 1"),
        ((0.6,), {"epsilon": -1.0}, "epsilon must be finite"),
        ((0.6,), {"initial": "mean"}, "'max' or a priority"),
        ((0.6,), {"initial": math.inf}, "initial priority must be finite"),
        ((0.6,), {"normalize": "mean"}, "normalize must be rows or batch"),
    ],
)
def test_settings_out_of_range_are_refused(args, options, message):
    with pytest.raises(SettingsError, match=message):
        Prioritized(*args, **options)


def test_an_annealing_out_of_range_is_refused():
    with pytest.raises(SettingsError, match="end=2"):
        Annealed(0.4, 2.0)
    with pytest.raises(SettingsError, match="rows must be 1"):
        Annealed(0.4, rows=0)
