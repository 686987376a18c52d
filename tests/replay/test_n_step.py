"""Returns are those of a loop over the steps of an episode."""

from __future__ import annotations

import numpy as np
import pytest
from fifo_rows import SCHEMA, FifoRows, histories, lived, reward
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import SettingsError
from fedmb.replay.n_step import NStep

RANDOM = np.random.default_rng(7)


@settings(deadline=None)
@given(histories(), st.integers(1, 6), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_returns_bootstraps_and_discounts_are_those_of_a_loop(history, n, discount):
    reader = NStep(n, discount, next_columns=("next",), num_streams=history[0].num_streams)
    view = lived(reader, history)

    got = reader.read(view, view.slots, RANDOM)

    assert reader.valid(view, view.slots).all()
    assert check_columns(got, reader.schema(SCHEMA)) == view.num_rows
    for i, number in enumerate(view.numbers):
        rows = view.walk(number, n)
        expected = sum(discount**k * float(reward(row)) for k, row in enumerate(rows))
        ending = view.ends[rows[-1]]
        assert got["number"][i] == number
        assert got["reward"][i] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert got["next"][i].tolist() == [-rows[-1], rows[-1]]
        assert got["discount"][i] == pytest.approx(0 if ending == 1 else discount ** len(rows), rel=1e-6)
        assert (got["terminated"][i], got["truncated"][i]) == (ending == 1, ending == 2)


def returns(view, *ends, **settings):
    reader = NStep(3, 0.5, next_columns=("next",), **settings)
    reader.check(view)
    view.append(ends)
    return reader.read(view, view.slots, RANDOM)


def test_a_truncated_episode_is_bootstrapped_from_its_last_next_and_a_terminated_one_is_not():
    got = returns(FifoRows(10), 0, 2, 0, 1, 0, 0, 0, 0)

    assert got["next"][:, 1].tolist() == [1, 1, 3, 3, 6, 7, 7, 7]
    assert got["discount"].tolist() == [0.25, 0.5, 0, 0, 0.125, 0.125, 0.25, 0.5]


def test_streams_do_not_see_each_other():
    got = returns(FifoRows(10, 2), 0, 1, 0, 0, 0, 0, 0, 0, num_streams=2)

    assert got["next"][:, 1].tolist() == [4, 1, 6, 7, 6, 7, 6, 7]
    assert got["discount"].tolist() == [0.125, 0, 0.125, 0.125, 0.25, 0.25, 0.5, 0.5]


def test_without_truncations_only_terminals_end_a_return():
    got = returns(FifoRows(10), 0, 2, 0, 0, truncated=None)

    assert got["next"][:, 1].tolist() == [2, 3, 3, 3]


def test_rewards_of_any_shape_and_type_are_summed():
    view = FifoRows(4, schema={**SCHEMA, "reward": Column("int8", (2,))})
    reader = NStep(2, 0.5, next_columns=())
    reader.check(view)
    view.append([0, 0, 0], reward=[[1, 2], [3, 4], [100, 101]])

    got = reader.read(view, view.slots, RANDOM)

    assert got["reward"].dtype == np.float32
    assert got["reward"].tolist() == [[2.5, 4], [53, 54.5], [100, 101]]
    assert check_columns(got, reader.schema(view.schema)) == 3


def test_a_reward_may_count_as_something_else():
    view, reader = FifoRows(10), NStep(2, 1, next_columns=(), of_reward=np.sign)
    reader.check(view)
    view.append([0, 0, 0])

    assert reader.read(view, view.slots, RANDOM)["reward"].tolist() == [-1, 1, 1]  # of -4, 0 and 4


def test_a_long_return_keeps_the_digits_of_its_rewards():
    view = FifoRows(1000, schema={**SCHEMA, "reward": Column("float32")})
    reader = NStep(1000, 1, next_columns=())
    reader.check(view)
    rewards = np.full(1000, 0.1, np.float32)
    view.append([0] * 1000, reward=rewards)

    assert reader.read(view, np.array([0]), RANDOM)["reward"][0] == np.float32(rewards.astype(float).sum())


def test_rows_to_skip_are_no_anchor():
    reader, view = NStep(2, 0.9, next_columns=(), skip="filler"), FifoRows(6)
    reader.check(view)
    view.append([1, 2, 0], filler=[False, True, False])

    assert reader.valid(view, view.slots).tolist() == [True, False, True]


def test_impossible_returns_are_refused():
    for options, rule in [
        ({"n": 0, "discount": 1}, "1 step or more, got n=0"),
        ({"n": 1, "discount": 1.1}, "discount must be 0 to 1, got 1.1"),
        ({"n": 1, "discount": float("nan")}, "discount must be 0 to 1"),
        ({"n": 1, "discount": 1, "next_columns": "next"}, "add a comma"),
    ]:
        with pytest.raises(SettingsError, match=rule):
            NStep(**options)
    with pytest.raises(SettingsError, match=r"got \['next_observation'\]"):
        NStep(1, 1).check(FifoRows(10))
    with pytest.raises(SettingsError, match="choose another discount_column"):
        NStep(1, 1, next_columns=(), discount_column="next").check(FifoRows(10))
    unordered = FifoRows(10)
    unordered.is_fifo = False
    with pytest.raises(SettingsError, match="first in, first out"):
        NStep(1, 1, next_columns=()).check(unordered)
