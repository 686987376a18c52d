"""A row is half as likely as one that was stored a half-life later; holes change nothing else."""

import numpy as np
import pytest
from frequencies import bound, expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.replay.recency import Recency


def chances(numbers, half_life):
    """The slow reference: of the row with each number, -1 where there is none."""
    numbers = np.asarray(numbers, float)
    weights = np.where(numbers >= 0, 0.5 ** ((numbers.max() - numbers) / half_life), 0.0)
    return weights / weights.sum()


@pytest.mark.parametrize("half_life", [0.7, 8.0, 1e6])
@pytest.mark.parametrize("dropped", [[], [3], [10, 59], [0, 1]])
def test_newer_rows_are_likelier_by_their_age_in_half_lives(half_life, dropped):
    recency, numbers = bound(Recency(half_life), 60), np.full(60, -1)
    for number in range(130):  # two rounds and more, one row after the other
        recency.store(np.array([number % 60]), None)
        numbers[number % 60] = number
    recency.drop(np.array(dropped, np.int64))
    numbers[dropped] = -1
    probabilities = chances(numbers, half_life)

    draws = [recency.draw(512, np.random.default_rng(seed)) for seed in range(80)]

    for draw in draws:
        assert np.allclose(draw.probabilities, probabilities[draw.slots], rtol=1e-12, atol=0)
    drawn = np.concatenate([draw.slots for draw in draws])
    often = probabilities > 6 / len(drawn)
    assert (np.bincount(drawn, minlength=60)[probabilities == 0] == 0).all()
    expect_frequencies(drawn[often[drawn]], np.where(often, probabilities, 0))


def test_while_the_oldest_rows_go_first_no_tree_is_needed():
    recency = bound(Recency(5.0), 10)

    for number in range(0, 40, 4):
        recency.store(np.arange(number, number + 4) % 10, None)
    recency.drop(np.array([1, 0]))  # numbers 31 and 30, the oldest: 2 to 9 hold 32 to 39
    assert recency._tree is None
    assert set(recency.draw(999, np.random.default_rng(0)).slots.tolist()) == set(range(2, 10))
    recency.drop(np.array([5]))
    assert recency._tree is not None


@settings(deadline=None)
@given(st.floats(0.05, 50), st.integers(1, 9), st.data())
def test_any_order_of_writes_and_drops_gives_the_reference_s_chances(half_life, capacity, data):
    recency, numbers, stop = bound(Recency(half_life, kernels="numpy"), capacity), np.full(capacity, -1), 0
    for _ in range(8):
        slots = np.array(data.draw(st.lists(st.integers(0, capacity - 1), unique=True)), np.int64)
        if data.draw(st.booleans()):
            recency.store(slots, None)
            numbers[slots] = np.arange(stop, stop + len(slots))
            stop += len(slots)
        else:
            slots = slots[numbers[slots] >= 0]
            recency.drop(slots)
            numbers[slots] = -1
        if (numbers >= 0).any():
            draw = recency.draw(64, np.random.default_rng(stop))
            assert (numbers[draw.slots] >= 0).all()
            assert np.allclose(draw.probabilities, chances(numbers, half_life)[draw.slots], rtol=1e-9)


def test_a_stream_of_many_half_lives_does_not_run_out_of_numbers():
    recency = bound(Recency(0.5), 8)
    recency.store(np.arange(8), None)
    recency.drop(np.array([4]))

    for number in range(3000):
        recency.store(np.array([number % 8]), None)

    newest = 2999 % 8
    assert np.mean(recency.draw(4000, np.random.default_rng(0)).slots == newest) == pytest.approx(0.75, abs=0.03)
    recency.drop(np.array([newest]))
    assert np.mean(recency.draw(4000, np.random.default_rng(0)).slots == newest - 1) == pytest.approx(0.75, abs=0.03)


def test_old_rows_can_be_drawn_once_all_new_ones_are_gone():
    recency = bound(Recency(0.001), 4)
    recency.store(np.arange(4), None)

    recency.drop(np.array([1, 3, 2]))

    draw = recency.draw(3, np.random.default_rng(0))
    assert (draw.slots.tolist(), draw.probabilities.tolist()) == ([0, 0, 0], [1, 1, 1])


def test_preferring_new_rows_is_no_bias_to_be_undone():
    recency = bound(Recency(3.0), 4)
    recency.store(np.arange(4), None)
    recency.reprioritize(np.array([0]), np.array([1e9]))

    assert recency.weights(recency.draw(8, np.random.default_rng(0)), 4) is None


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("inf"), float("nan")])
def test_a_half_life_is_positive_and_finite(half_life):
    with pytest.raises(SettingsError, match="half_life must be rows"):
        Recency(half_life)
