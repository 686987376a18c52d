"""Relabelled goals come from the rows that their strategy allows, each as likely, and bring their reward."""

from __future__ import annotations

import numpy as np
import pytest
from fifo_rows import Anyone, FifoRows, chi_square, histories, lived
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.hindsight import Hindsight
from fedmb.replay.reader import draw_valid

SCHEMA = {
    "number": Column("int64"),
    "achieved": Column("float32", (2,)),
    "goal": Column("float32", (2,)),
    "next_goal": Column("float32", (2,)),
    "reward": Column("float32"),
    "terminated": Column("bool"),
    "truncated": Column("bool"),
    "filler": Column("bool"),
}
ROWS = np.arange(200)
GOALS = {
    "achieved": np.stack([ROWS, -ROWS], axis=1),  # a row achieves its own number
    "goal": np.full((200, 2), -1),
    "next_goal": np.full((200, 2), -2),
    "reward": np.full(200, 7),
}


def distance(achieved, goal, columns):
    assert len(achieved) == len(goal) == len(columns["number"])
    assert np.array_equal(columns["goal"], goal)
    return -np.abs(achieved - goal).sum(axis=1)


class GoalRows(FifoRows):
    def __init__(self, capacity, num_streams=1):
        super().__init__(capacity, num_streams, SCHEMA)

    def append(self, ends, **others):
        super().append(ends, **GOALS, **others)


def hindsight(**settings):
    return Hindsight(goal=("goal", "next_goal"), achieved="achieved", reward=distance, **settings)


def allowed(view, number, strategy):
    """Numbers of the rows whose achieved goal the row may get."""
    rows = view.episode(number)
    return {"future": rows[rows.index(number) :], "final": rows[-1:], "episode": rows}[strategy]


@settings(deadline=None)
@given(histories(), st.sampled_from(["future", "final", "episode"]), st.integers(0, 2**32))
def test_goals_are_achieved_ones_that_the_strategy_allows(history, strategy, seed):
    plain, ends, looks = history
    view = GoalRows(plain.capacity, plain.num_streams)
    reader = hindsight(strategy=strategy, ratio=1, num_streams=view.num_streams)
    lived(reader, (view, ends, looks))

    valid = reader.valid(view, view.slots)
    got = reader.read(view, view.slots[valid], np.random.default_rng(seed))

    numbers = view.numbers[valid]
    assert valid.tolist() == [strategy != "final" or view.ends[view.episode(n)[-1]] != 0 for n in view.numbers]
    assert check_columns(got, reader.schema(SCHEMA)) == len(numbers)
    assert np.array_equal(got["number"], numbers)
    assert np.array_equal(got["achieved"], GOALS["achieved"][numbers])
    assert np.array_equal(got["goal"], got["next_goal"])
    assert np.array_equal(got["reward"], -np.abs(got["achieved"] - got["goal"]).sum(axis=1))
    for number, goal in zip(numbers, got["goal"], strict=True):
        assert goal[0] in allowed(view, number, strategy)
        assert goal[1] == -goal[0]


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_and_anchors_have_the_frequencies_they_should(strategy):
    view, reader, random = GoalRows(20), hindsight(strategy=strategy), np.random.default_rng(5)
    reader.check(view)
    view.append([0, 0, 1, 0, 0, 0, 0, 2] + [0, 0, 0, 1, 0, 0, 0, 1] * 2 + [0, 0])  # oldest is 6, 24 and 25 run

    slots = draw_valid(Anyone(view), reader, view, 60_000, random).slots
    got = reader.read(view, slots, random)

    valid = view.numbers[reader.valid(view, view.slots)]
    expected = {}
    for number in valid:
        for goal in allowed(view, number, strategy):
            expected[number * 100 + goal] = 0.8 / len(allowed(view, number, strategy))
        expected[number * 100 - 1] = 0.2
    assert abs(chi_square(got["number"], dict.fromkeys(valid, 1))) < 4
    assert abs(chi_square(got["number"] * 100 + got["goal"][:, 0].astype(int), expected)) < 4


def test_rows_left_as_they_were_are_untouched():
    view, reader = GoalRows(10), hindsight(ratio=0)
    reader.check(view)
    view.append([0, 0, 1])

    got = reader.read(view, view.slots, np.random.default_rng(1))

    assert got["goal"].tolist() == [[-1, -1]] * 3
    assert got["next_goal"].tolist() == [[-2, -2]] * 3
    assert got["reward"].tolist() == [7, 7, 7]


def test_other_columns_follow_the_goal_by_rules_of_their_own():
    def reached(achieved, goal, columns):
        return (achieved == goal).all(axis=1)

    view, reader = GoalRows(10), hindsight(strategy="final", ratio=1, others={"terminated": reached})
    reader.check(view)
    view.append([0, 0, 2])

    got = reader.read(view, view.slots, np.random.default_rng(1))

    assert got["terminated"].tolist() == [False, False, True]


@pytest.mark.parametrize("wrong", [lambda *_: 0.0, lambda achieved, *_: np.zeros((len(achieved), 1), np.float32)])
def test_a_rule_that_does_not_give_one_value_a_row_is_refused(wrong):
    view, reader = GoalRows(10), Hindsight(goal=("goal",), achieved="achieved", reward=wrong, ratio=1)
    reader.check(view)
    view.append([0, 0, 2])

    with pytest.raises(ShapeError, match=r"one 'reward' a row, of shape \(3,\)"):
        reader.read(view, view.slots, np.random.default_rng(1))


def test_rows_to_skip_are_no_anchor():
    view, reader = GoalRows(10), hindsight(skip="filler")
    reader.check(view)
    view.append([0, 1, 2], filler=[False, False, True])

    assert reader.valid(view, view.slots).tolist() == [True, True, False]


def test_impossible_settings_and_tables_are_refused():
    for options, rule in [
        ({"ratio": 1.5}, "ratio must be 0 to 1"),
        ({"strategy": "past"}, "strategy must be one of"),
        ({"ends": ()}, "ends must be a tuple"),
    ]:
        with pytest.raises(SettingsError, match=rule):
            hindsight(**options)
    with pytest.raises(SettingsError, match="goal must be a tuple"):
        Hindsight(goal="goal", achieved="achieved", reward=distance)
    with pytest.raises(SettingsError, match="one type and shape"):
        Hindsight(goal=("number",), achieved="achieved", reward=distance).check(GoalRows(10))
    with pytest.raises(SettingsError, match=r"got \['achieved', 'goal', 'next_goal'\]"):
        hindsight().check(FifoRows(10))
    reader = hindsight()
    reader.check(GoalRows(10))
    with pytest.raises(SettingsError, match="one for each"):
        reader.check(GoalRows(10))
