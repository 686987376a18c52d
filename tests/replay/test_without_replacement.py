"""Each row once a pass, in random order, and no row twice in a batch."""

import numpy as np
import pytest
from frequencies import bound, expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import NotEnoughData
from fedmb.replay.without_replacement import WithoutReplacement


def passes(capacity, stored):
    sampler = bound(WithoutReplacement(), capacity)
    sampler.store(np.arange(stored), None)
    return sampler


def test_every_pass_goes_through_all_rows_once():
    sampler, random = passes(40, 30), np.random.default_rng(0)

    for _ in range(5):
        drawn = np.concatenate([sampler.draw(6, random).slots for _ in range(5)])
        assert sorted(drawn.tolist()) == list(range(30))


def test_any_row_may_come_first_and_the_order_of_a_pass_is_random():
    first = [passes(20, 20).draw(3, np.random.default_rng(seed)).slots for seed in range(1500)]

    for place in range(3):
        expect_frequencies([drawn[place] for drawn in first], np.ones(20))


def test_a_batch_across_two_passes_has_no_row_twice():
    sampler, random, drawn = passes(10, 10), np.random.default_rng(0), []

    for _ in range(50):
        batch = sampler.draw(7, random).slots.tolist()
        assert len(set(batch)) == 7
        drawn += batch

    counts = np.bincount(drawn[: 10 * (len(drawn) // 10)], minlength=10)
    assert counts.tolist() == [35] * 10


def test_rows_stored_during_a_pass_join_it_also_where_they_replace_drawn_ones():
    sampler, random = passes(10, 6), np.random.default_rng(0)
    drawn = sampler.draw(4, random).slots

    sampler.store(np.array([8, drawn[0]]), None)

    rest = sampler.draw(4, random).slots.tolist()
    assert sorted(rest) == sorted({*range(6), 8} - {*drawn[1:].tolist()})


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_what_a_pass_owes_comes_before_anything_else(capacity, data):
    sampler, held, owed = bound(WithoutReplacement(), capacity), set(), set()
    for step in range(12):
        slots = data.draw(st.lists(st.integers(0, capacity - 1), unique=True))
        operation = data.draw(st.sampled_from(["store", "drop", "draw"]))
        if operation == "store":
            sampler.store(np.array(slots, np.int64), None)
            held |= set(slots)
            owed |= set(slots)
        elif operation == "drop":
            sampler.drop(np.array(sorted(held & set(slots)), np.int64))
            held -= set(slots)
            owed -= set(slots)
        elif held:
            size = data.draw(st.integers(1, len(held)))
            drawn = sampler.draw(size, np.random.default_rng(step)).slots.tolist()
            assert len(set(drawn)) == size
            assert set(drawn) <= held
            if size <= len(owed):
                assert set(drawn) <= owed
                owed -= set(drawn)
            else:
                assert set(drawn[: len(owed)]) == owed
                owed = held - set(drawn[len(owed) :])


def test_a_batch_larger_than_the_table_is_refused():
    with pytest.raises(NotEnoughData, match="needs 4 rows, got 3"):
        passes(5, 3).draw(4, np.random.default_rng(0))
