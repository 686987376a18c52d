"""Every row of a stream is kept with the same chance, whatever the stream's length and cuts."""

import numpy as np
import pytest
from frequencies import bound, expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.replay.reservoir import Reservoir


def kept(reservoir, capacity, stream, size=64, seed=0):
    """Number of the row in each slot after a stream."""
    rows, random = np.full(capacity, -1), np.random.default_rng(seed)
    for first in range(0, stream, size):
        numbers = np.arange(first, min(stream, first + size))
        slots = reservoir.place(len(numbers), {}, random)
        for slot, number in zip(slots.tolist(), numbers.tolist(), strict=True):
            if slot >= 0:
                rows[slot] = number
    return rows


@pytest.mark.parametrize("seeded", [True, False])
def test_rows_of_all_ages_are_kept_with_one_chance(seeded):
    ages = [
        kept(bound(Reservoir(seed=seed if seeded else None), 500), 500, 8000, seed=seed) * 10 // 8000
        for seed in range(20)
    ]

    expect_frequencies(ages, np.ones(10))


@pytest.mark.parametrize("seeded", [True, False])
def test_any_row_can_end_in_any_slot(seeded):
    rows = [kept(bound(Reservoir(seed=seed if seeded else None), 3), 3, 9, seed=seed) for seed in range(3000)]

    for slot in range(3):
        expected = np.array([each[slot] for each in rows])
        assert np.bincount(expected, minlength=9)[[other for other in range(3) if other != slot]].sum() == 0
    expect_frequencies(rows, np.ones(9))


@settings(deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 12), max_size=12), st.booleans())
def test_a_row_goes_where_algorithm_r_sends_it_however_the_stream_is_cut(capacity, sizes, seeded):
    reservoir = bound(Reservoir(seed=4 if seeded else None, client="a"), capacity)
    random, stream = np.random.default_rng(1), sum(sizes)
    chances = reservoir._chances.at(0, stream)[0] if seeded else np.random.default_rng(1).random(stream)

    placed = [reservoir.place(size, {}, random) for size in sizes]

    expected = []
    for number in range(stream):  # the slow reference
        slot = number if number < capacity else int(chances[number] * (number + 1))
        expected.append(slot if slot < capacity else -1)
    assert np.concatenate([np.empty(0, int), *placed]).tolist() == expected


def test_what_becomes_of_a_row_depends_on_seed_and_client():
    streams = [
        kept(bound(Reservoir(seed=seed, client=client), 20), 20, 300).tolist()
        for seed, client in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]
    ]

    assert streams[0] == streams[1]
    assert len({tuple(stream) for stream in streams}) == 3


def test_slots_of_dropped_rows_are_filled_by_the_next_rows():
    reservoir, random = bound(Reservoir(seed=0), 5), np.random.default_rng(0)
    reservoir.place(1000, {}, random)

    reservoir.drop(np.array([3, 1]))

    assert reservoir.place(2, {}, random).tolist() == [1, 3]


def test_a_negative_seed_is_refused():
    with pytest.raises(SettingsError, match="seed must be 0"):
        Reservoir(seed=-1)
