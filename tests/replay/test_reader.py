"""Rows that may not be drawn are drawn again, and nothing else of a draw changes."""

from __future__ import annotations

import numpy as np
import pytest
from fifo_rows import SCHEMA, Anyone, Favourites, FifoRows, chi_square

from fedmb.errors import SettingsError
from fedmb.replay.reader import Rows, draw_valid, row_numbers

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
