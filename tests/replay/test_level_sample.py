"""The kept rows are those of a slow reference, whatever was undone and done again in between."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.replay.level_sample import LevelSample
from fedmb.replay.undoable_rows import UndoableRows

WINDOW = 12
ROWS = 400
SCHEMA = {"row": Column("int64")}


class Reference:
    """The rule, row by row: the largest key of the largest group goes, and who was below it never comes back."""

    def __init__(self, window: int) -> None:
        self.window, self.kept, self.thresholds = window, [], {}

    def show(self, number: int, key: float, group: int) -> None:
        if key >= self.thresholds.get(group, np.inf):
            return
        self.kept.append((key, number, group))
        if len(self.kept) <= self.window:
            return
        counts = Counter(one for *_, one in self.kept)
        loser = min((-count, one != group, one) for one, count in counts.items())[2]
        last = max(row for row in self.kept if row[2] == loser)
        self.kept.remove(last)
        self.thresholds[loser] = last[0]

    def numbers(self) -> list[int]:
        return sorted(number for _, number, _ in self.kept)


class Kept:
    """A sample with the rows' numbers as its only column."""

    def __init__(self, num_groups: int, slots: int | None = None) -> None:
        self.rows = UndoableRows.in_memory(SCHEMA, slots or 2 * WINDOW + num_groups)
        self.sample = LevelSample(self.rows, WINDOW, num_groups)

    def show(self, first: int, keys: np.ndarray, groups: np.ndarray) -> None:
        slots, chosen = self.sample.choose(first, keys, groups)
        self.rows.write(slots, {"row": np.arange(first, first + len(keys))}, chosen)
        self.rows.commit(first + len(keys), self.rows.horizon)

    def places(self) -> list[int]:
        """Number of the row in each place."""
        return self.rows.gather(self.sample.slots(np.arange(len(self.sample))))["row"].tolist()

    def go_back(self, appended: int) -> None:
        self.rows.commit(appended, self.rows.horizon)
        self.rows.drop_unfinished()
        self.sample.read()


def stream(seed: int, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    skew = chance.permutation(np.arange(1, num_groups + 1) ** 2.0)
    groups = chance.choice(num_groups, ROWS, p=skew / skew.sum())
    groups[ROWS // 2 :] = (groups[ROWS // 2 :] + num_groups // 2) % num_groups  # what was rare becomes frequent
    return chance.random(ROWS), groups


def cuts(seed: int) -> list[int]:
    chance = np.random.default_rng(1000 + seed)
    edges = np.cumsum(chance.integers(1, WINDOW + 1, ROWS))
    return [0, *edges[edges < ROWS].tolist(), ROWS]


@pytest.mark.parametrize("num_groups", [1, 2, 3, 7, WINDOW])
@pytest.mark.parametrize("seed", range(6))
def test_it_keeps_what_the_rule_keeps_row_by_row(seed, num_groups):
    keys, groups = stream(seed, num_groups)
    one, other = Kept(num_groups), Reference(WINDOW)
    for start, stop in zip(cuts(seed), cuts(seed)[1:], strict=False):
        one.show(start, keys[start:stop], groups[start:stop])
        for row in range(start, stop):
            other.show(row, keys[row], int(groups[row]))

        assert sorted(one.places()) == other.numbers()
        assert one.sample.counts.tolist() == np.bincount(groups[other.numbers()], minlength=num_groups).tolist()


@pytest.mark.parametrize("num_groups", [1, 3, WINDOW])
@pytest.mark.parametrize("seed", range(8))
def test_going_back_by_a_window_and_on_again_leaves_every_row_in_its_place(seed, num_groups):
    keys, groups = stream(seed, num_groups)
    whole, seen = Kept(num_groups), {0: []}
    for row in range(ROWS):
        whole.show(row, keys[row : row + 1], groups[row : row + 1])
        seen[row + 1] = whole.places()
    chance = np.random.default_rng(seed)
    one, here, gone_back = Kept(num_groups), 0, 0
    while here < ROWS:
        count = int(chance.integers(1, WINDOW // 2))
        one.show(here, keys[here : here + count], groups[here : here + count])
        here = min(ROWS, here + count)
        assert one.places() == seen[here]
        if chance.random() < 0.3:
            furthest = here
            here = max(0, here - int(chance.integers(0, WINDOW + 1)))
            assert one.rows.horizon <= here
            one.go_back(here)
            gone_back += furthest - here
            assert one.places() == seen[here]

    assert gone_back > WINDOW


@pytest.mark.parametrize("num_groups", [1, 4])
def test_every_moment_down_to_the_horizon_can_be_put_together(num_groups):
    keys, groups = stream(3, num_groups)
    one, seen = Kept(num_groups), {}
    for row in range(ROWS):
        one.show(row, keys[row : row + 1], groups[row : row + 1])
        seen[row + 1] = one.places()

    assert one.rows.horizon < ROWS - 2 * WINDOW  # in an old stream few rows enter, so the slots reach far back
    for moment in range(ROWS, max(1, one.rows.horizon) - 1, -1):
        one.go_back(moment)
        assert one.places() == seen[moment]


def test_beyond_the_horizon_what_is_left_is_still_the_sample_of_a_threshold():
    keys, groups = stream(1, 1)
    one = Kept(1)
    one.show(0, keys[:WINDOW], groups[:WINDOW])
    for row in range(WINDOW, ROWS):
        one.show(row, keys[row : row + 1], groups[row : row + 1])
    moment = one.rows.horizon // 2
    one.sample.go_back_beyond_the_horizon(moment)
    one.rows.commit(moment, moment)
    one.rows.drop_unfinished()
    one.sample.read()

    left = one.places()
    assert 0 < len(left) < WINDOW
    assert sorted(left) == np.flatnonzero(keys[:moment] <= keys[left].max()).tolist()
    for row in range(moment, ROWS):
        one.show(row, keys[row : row + 1], groups[row : row + 1])
    assert sorted(one.places()) == sorted(np.argsort(keys)[:WINDOW].tolist())


def test_a_group_that_lost_rows_long_ago_still_keeps_newcomers_with_large_keys_out():
    one = Kept(2)
    one.show(0, np.linspace(0.1, 0.9, 9), np.zeros(9, np.int64))
    one.show(9, np.linspace(0.15, 0.95, 9), np.ones(9, np.int64))
    keys = np.random.default_rng(0).random(ROWS)
    for row in range(18, ROWS):
        one.show(row, keys[row : row + 1], np.ones(1, np.int64))  # the other group loses nothing any more
    before = one.places()

    one.show(ROWS, np.array([0.85]), np.zeros(1, np.int64))

    assert one.places() == before
    assert one.sample.counts.tolist() == [6, 6]
