import itertools

import numpy as np
import pytest
from frequencies import expect_frequencies
from modelled_table import make, rows

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.sample_limit import SampleLimit


def one_after_another(priorities, most, size):
    """Chance of each batch, where each row is drawn alone from those that are not used up."""
    chances = {}
    for drawn in itertools.product(range(len(priorities)), repeat=size):
        chance, left = 1.0, np.full(len(priorities), most)
        for row in drawn:
            weights = np.where(left > 0, priorities, 0.0)
            chance *= weights[row] / weights.sum()
            left[row] -= 1
        batch = tuple(sorted(drawn))
        chances[batch] = chances.get(batch, 0.0) + chance
    return chances


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_is_drawn_as_if_its_rows_were_drawn_one_after_another(most):
    priorities = np.array([1.0, 4.0, 2.0, 6.0])
    chances = one_after_another(priorities, most, 3)
    sampler = Prioritized(1.0, epsilon=0.0, stratified=False, kernels="numpy")
    table = ReplayTable(make("uniform", "fifo").schema, 4, sampler=sampler, max_times_sampled=most)

    found = []
    for start in range(0, 8000, 4):
        table.append(rows(start, 4), priorities=priorities)
        found.append(tuple(sorted((table.sample(3).ids % 4).tolist())))

    kinds = sorted(chances)
    expect_frequencies([kinds.index(batch) for batch in found], [chances[batch] for batch in kinds])


def test_a_row_is_gone_after_its_last_draw():
    table = make("passes", "fifo", most=2)
    table.append(rows(0, 6))

    ids = [table.sample(4).ids.tolist() for _ in range(3)]

    assert np.bincount(np.concatenate(ids)).tolist() == [2] * 6
    assert len(table) == 0
    assert table.statistics().removed == 6
    with pytest.raises(NotEnoughData, match="1 rows must have draws left, 0 rows have 0; append more"):
        table.sample(1)


def test_more_than_is_left_is_refused_and_counts_nothing():
    table = make("uniform", "fifo", most=3)
    table.append(rows(0, 2))
    before = repr(table.state_dict())

    with pytest.raises(NotEnoughData, match="7 rows must have draws left, 2 rows have 6"):
        table.sample(7)

    assert repr(table.state_dict()) == before
    assert len(table.sample(6)) == 6


def test_rows_that_crowd_out_the_others_are_taken_away_within_the_batch():
    sampler = Prioritized(1.0, epsilon=0.0, kernels="numpy")
    table = ReplayTable(make("uniform", "fifo").schema, 10, sampler=sampler, max_times_sampled=1)
    table.append(rows(0, 10), priorities=np.array([1e9] + [1e-9] * 9))

    assert sorted(table.sample(10).ids.tolist()) == list(range(10))


def test_rows_that_cannot_be_drawn_leave_the_sampler_as_it_was():
    sampler = Prioritized(1.0, epsilon=0.0, kernels="numpy")
    table = ReplayTable(make("uniform", "fifo").schema, 10, sampler=sampler, max_times_sampled=1)
    table.append(rows(0, 10), priorities=np.array([1.0, 2.0, 3.0] + [0.0] * 7))

    with pytest.raises(NotEnoughData):
        table.sample(4)

    assert len(table) == 10
    assert sorted(table.sample(3).ids.tolist()) == [0, 1, 2]


def test_too_few_valid_rows_are_given_up_in_the_end():
    table = make("uniform", "fifo", most=1, skips=True)
    table.append(rows(0, 10))  # two of which are skipped

    with pytest.raises(NotEnoughData, match="9 rows must be valid and not used up, 8 of 10 were found"):
        table.sample(9)

    assert len(table.sample(8)) == 8


def test_counts_begin_anew_for_a_new_row_in_the_slot():
    table = make("uniform", "fifo", most=4, capacity=1)
    for number in range(5):
        table.append(rows(number, 1))
        assert set(table.sample(3).ids.tolist()) == {number}


def test_settings_out_of_range_are_refused():
    for most in (0, -1, 2**32):
        with pytest.raises(SettingsError, match=f"max_times_sampled must be 1 to 4294967295, got {most}"):
            SampleLimit(4, most)
    with pytest.raises(ShapeError, match="a state must be of 4 slots, got 3"):
        SampleLimit(4, 1).load_state_dict(SampleLimit(3, 1).state_dict())
