"""Chances follow from seed, client, purpose and row number alone, and are uniform."""

import numpy as np
import pytest
from frequencies import expect_frequencies

from fedmb.errors import SettingsError
from fedmb.replay.row_chances import RowChances

GAMMA, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def mixed(state):
    """The slow reference: SplitMix64, as published."""
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & MASK
    return state ^ state >> 31


def test_chances_are_those_of_the_published_generator():
    chances = RowChances(1, "a", "x", num_lanes=2)
    chances._key = np.uint64(1234567)

    given = chances.at(0, 2)

    # The first of these are printed wherever SplitMix64 is described, for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973]
    states = [mixed((1234567 + number * GAMMA) & MASK) for number in (1, 2, 3, 4)]
    assert states[:2] == published
    assert given.T.ravel().tolist() == [(state >> 11) * 2.0**-53 for state in states]


def test_any_cut_of_the_stream_gives_a_row_the_same_chances():
    chances = RowChances(1, 7, "x", num_lanes=3)

    whole = chances.at(10**12, 50)

    parts = [chances.at(10**12 + start, stop - start) for start, stop in ((0, 1), (1, 1), (1, 30), (30, 50))]
    assert np.concatenate(parts, axis=1).tolist() == whole.tolist()


def test_seeds_clients_purposes_and_lanes_are_unrelated():
    keys = [(1, 1, "x"), (2, 1, "x"), (1, 2, "x"), (1, "1", "x"), (1, 1, "y")]
    chances = np.concatenate([RowChances(*key, num_lanes=2).at(0, 4000) for key in keys])

    correlations = np.corrcoef(chances) - np.eye(10)

    assert abs(correlations).max() < 4 / np.sqrt(4000)


def test_chances_are_uniform_and_below_one():
    chances = RowChances(3, 0, "x").at(0, 200_000)[0]

    assert 0 <= chances.min() < chances.max() < 1
    expect_frequencies((chances * 100).astype(int), np.ones(100))


def test_a_negative_seed_is_refused():
    with pytest.raises(SettingsError, match="seed must be 0"):
        RowChances(-1, 0, "x")
