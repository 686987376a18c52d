"""Rows that may not be drawn are drawn again, and nothing else of a draw changes."""

from __future__ import annotations

import numpy as np
import pytest
from fifo_rows import SCHEMA, Anyone, Favourites, FifoRows, chi_square

from fedmb.batch.minibatch import check_columns
from fedmb.errors import SettingsError
from fedmb.replay.hindsight import Hindsight
from fedmb.replay.n_step import NStep
from fedmb.replay.reader import Rows, draw_valid, row_numbers
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.trajectory import Windows
from fedmb.replay.without_replacement import WithoutReplacement

FILLER = [i % 3 == 0 for i in range(40)]


def filled(reader):
    view = FifoRows(30)
    reader.check(view)
    view.append([0] * 40, filler=FILLER)
    return view


def test_rows_are_given_as_they_were_stored():
    reader = Rows()
    view = filled(reader)

    got = reader.read(view, np.array([3, 3, 1]), np.random.default_rng(1))

    assert reader.schema(SCHEMA) == SCHEMA
    assert reader.valid(view, view.slots).all()
    assert got["number"].tolist() == [33, 33, 31]


def test_slots_give_back_the_numbers_of_their_rows():
    view = filled(Rows())

    assert np.array_equal(row_numbers(view, view.slots), view.numbers)


@pytest.mark.parametrize("chances", [np.ones_like, lambda numbers: numbers % 7 + 0.1], ids=["uniform", "prioritised"])
def test_rows_to_skip_are_never_drawn_and_others_keep_their_ratios(chances):
    reader = Rows(skip="filler")
    view = filled(reader)
    sampler, random = Favourites(view, chances), np.random.default_rng(2)

    drawn = np.concatenate([row_numbers(view, draw_valid(sampler, reader, view, 64, random).slots) for _ in range(200)])

    good = [number for number in view.numbers if not FILLER[number]]
    assert abs(chi_square(drawn, {number: chances(np.array(number, float)) for number in good})) < 4


def test_a_draw_of_valid_rows_is_passed_on_untouched():
    class Fixed(Anyone):
        def draw(self, size, random):
            self.given = super().draw(size, random)
            return self.given

    view = filled(Rows())
    sampler = Fixed(view)

    assert draw_valid(sampler, Rows(), view, 8, np.random.default_rng(3)) is sampler.given


def test_as_long_as_rows_are_mostly_valid_no_row_is_drawn_in_vain():
    class Counting(Anyone):
        asked = ()

        def draw(self, size, random):
            self.asked += (size,)
            return super().draw(size, random)

    reader = Rows(skip="filler")
    view = filled(reader)
    sampler = Counting(view)

    draw = draw_valid(sampler, reader, view, 64, np.random.default_rng(4))

    assert reader.valid(view, draw.slots).all()
    assert sampler.asked[0] == 64
    assert list(sampler.asked) == sorted(sampler.asked, reverse=True)


def test_a_table_without_the_column_to_skip_by_is_refused():
    with pytest.raises(SettingsError, match=r"got \['reset'\]"):
        Rows(skip="reset").check(FifoRows(4))


READERS = {
    "windows": lambda: Windows(4, stride=2, num_streams=3),
    "padded": lambda: Windows(4, burn_in=2, pad=True, num_streams=3),
    "returns": lambda: NStep(3, 0.9, next_columns=("next",), num_streams=3),
    "goals": lambda: Hindsight(goal=("reward",), achieved="reward", reward=lambda a, g, c: a - g, num_streams=3),
}


def rows_of(start, stop):
    numbers = np.arange(start, stop)
    return {
        "number": numbers,
        "next": np.stack([-numbers, numbers], axis=1),
        "reward": numbers.astype(np.float32),
        "terminated": numbers % 17 == 0,
        "truncated": numbers % 23 == 0,
        "filler": np.zeros(len(numbers), np.bool_),
    }


def drawn(table, count=3):
    return [table.sample(32) for _ in range(count)]


@pytest.mark.parametrize("limit", [None, 1000], ids=["endless", "limited"])
@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_a_table_that_is_resumed_draws_and_reads_the_same(make, limit):
    tables = [ReplayTable(SCHEMA, 100, reader=make(), max_times_sampled=limit) for _ in range(2)]
    one, other = tables
    for start in range(0, 160, 40):
        one.append(rows_of(start, start + 40))
        drawn(one)
    other.append(rows_of(500, 590))  # of which nothing must be left
    drawn(other)

    other.load_state_dict(one.state_dict())
    for table in tables:
        table.append(rows_of(160, 190))

    for first, second in zip(drawn(one), drawn(other), strict=True):
        assert np.array_equal(first.ids, second.ids)
        assert all(np.array_equal(first.columns[name], second.columns[name]) for name in first.columns)
        assert check_columns(first.columns, one.sample_schema) == 32


@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_rows_appended_one_by_one_are_read_like_rows_appended_together(make):
    one, other = (ReplayTable(SCHEMA, 100, reader=make()) for _ in range(2))
    columns = rows_of(0, 130)
    one.append(columns)
    for row in zip(*columns.values(), strict=True):
        other.append_row(row)

    for first, second in zip(drawn(one), drawn(other), strict=True):
        assert all(np.array_equal(first.columns[name], second.columns[name]) for name in first.columns)


def test_samplers_without_replacement_give_each_valid_anchor_once_a_pass():
    table = ReplayTable(SCHEMA, 100, reader=Windows(4, num_streams=3), sampler=WithoutReplacement())
    table.append(rows_of(0, 100))

    numbers = np.concatenate([table.sample(1).columns["number"][:, 0] for _ in range(400)])

    whole = len(set(numbers))
    passes = [set(numbers[start : start + whole]) for start in range(0, 400 - whole, whole)]
    assert len(passes) > 4
    assert all(len(one) == whole for one in passes)
