"""Every row is equally likely, with and without holes."""

import numpy as np
from frequencies import bound, expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay.uniform_sampler import Uniform


def test_rows_without_a_hole_are_equally_likely_and_nothing_is_kept_of_them():
    uniform = bound(Uniform(), 100)
    for first in range(0, 60, 20):
        uniform.store(np.arange(first, first + 20), None)

    drawn = [uniform.draw(256, np.random.default_rng(seed)).slots for seed in range(40)]

    assert uniform._order is None
    expect_frequencies(drawn, np.arange(100) < 60)


def test_rows_between_holes_are_equally_likely():
    uniform = bound(Uniform(), 100)
    uniform.store(np.arange(90), None)
    uniform.drop(np.arange(0, 90, 3))
    uniform.store(np.array([3, 99, 4]), None)

    drawn = [uniform.draw(256, np.random.default_rng(seed)).slots for seed in range(40)]

    held = (np.arange(100) % 3 != 0) & (np.arange(100) < 90)
    held[[3, 99]] = True
    expect_frequencies(drawn, held)


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_exactly_the_slots_that_hold_a_row_are_drawn(capacity, data):
    uniform, held = bound(Uniform(), capacity), set()
    for _ in range(8):
        slots = data.draw(st.lists(st.integers(0, capacity - 1), unique=True))
        if data.draw(st.booleans()):
            uniform.store(np.array(slots, np.int64), None)
            held |= set(slots)
        else:
            uniform.drop(np.array(sorted(held & set(slots)), np.int64))
            held -= set(slots)
        if held:
            assert set(uniform.draw(40 * capacity, np.random.default_rng(0)).slots.tolist()) <= held
            assert uniform._count == len(held)


def test_a_first_in_first_out_round_keeps_the_short_way():
    uniform = bound(Uniform(), 10)
    for number in range(0, 40, 4):
        uniform.store(np.arange(number, number + 4) % 10, None)

    assert uniform._order is None
    assert uniform._count == 10


def test_all_rows_weigh_the_same():
    uniform = bound(Uniform(), 4)
    uniform.store(np.arange(4), np.ones(4))
    uniform.reprioritize(np.arange(2), np.zeros(2))
    draw = uniform.draw(50, np.random.default_rng(0))

    assert draw.probabilities is None
    assert uniform.weights(draw, 4) is None
    assert set(draw.slots.tolist()) == {0, 1, 2, 3}
