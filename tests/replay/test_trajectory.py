"""Windows hold the rows that a walk along the episode finds, and anchors keep their frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fifo_rows import SCHEMA, Anyone, Favourites, FifoRows, chi_square, histories, lived
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.reader import draw_valid
from fedmb.replay.trajectory import Windows

RANDOM = np.random.default_rng(7)


def fits(view):
    return view.capacity // view.num_streams


@settings(deadline=None)
@given(histories(), st.data())
def test_windows_are_whole_and_lie_within_one_episode(history, data):
    view = history[0]
    length = data.draw(st.integers(1, min(5, fits(view))))
    reader = Windows(length, num_streams=view.num_streams)
    lived(reader, history)

    valid = reader.valid(view, view.slots)
    windows = reader.read(view, view.slots[valid], RANDOM)

    expected = [view.walk(number, length) for number in view.numbers]
    assert valid.tolist() == [len(rows) == length for rows in expected]
    assert windows["number"].tolist() == [rows for rows in expected if len(rows) == length]
    assert windows["next"].shape == (valid.sum(), length, 2)
    assert check_columns(windows, reader.schema(SCHEMA)) == valid.sum()


@settings(deadline=None)
@given(histories(), st.data())
def test_padded_windows_are_masked_where_nothing_is_stored(history, data):
    view = history[0]
    length = data.draw(st.integers(1, min(5, fits(view))))
    burn_in = data.draw(st.integers(0, min(3, fits(view) - length)))
    reader = Windows(length, burn_in=burn_in, pad=True, num_streams=view.num_streams)
    lived(reader, history)

    windows = reader.read(view, view.slots, RANDOM)

    assert reader.valid(view, view.slots).all()
    assert check_columns(windows, reader.schema(SCHEMA)) == view.num_rows
    for i, number in enumerate(view.numbers):
        real = [*view.walk(number, burn_in + 1, -1)[:0:-1], *view.walk(number, length)]
        mask = windows["mask"][i]
        assert windows["number"][i][mask].tolist() == real
        assert np.flatnonzero(mask)[0] == burn_in - (len(view.walk(number, burn_in + 1, -1)) - 1)
        assert not windows["next"][i][~mask].any()
        assert not windows["number"][i][~mask].any()


@settings(deadline=None)
@given(histories(), st.sampled_from([2, 3, math.inf]))
def test_a_stride_counts_from_the_first_row_of_an_episode(history, stride):
    view = history[0]
    reader = Windows(1, stride=stride, num_streams=view.num_streams)
    lived(reader, history)

    valid = reader.valid(view, view.slots)

    for number, is_valid in zip(view.numbers, valid, strict=True):
        rows = view.episode(number)
        is_sure = view.oldest <= rows[0] < view.num_streams or view.oldest <= rows[0] - view.num_streams
        assert is_valid == (is_sure and rows.index(number) % (len(rows) + 1 if stride == math.inf else stride) == 0)


def test_whole_episodes_begin_at_their_first_row_and_are_cut_at_the_longest():
    reader, view = Windows.episodes(4), FifoRows(12)
    reader.check(view)
    view.append([0, 0, 1, 0, 0, 0, 0, 2, 0, 0])

    valid = reader.valid(view, view.slots)
    windows = reader.read(view, view.slots[valid], RANDOM)

    assert view.numbers[valid].tolist() == [0, 3, 8]
    assert windows["number"].tolist() == [[0, 1, 2, 0], [3, 4, 5, 6], [8, 9, 0, 0]]
    assert windows["mask"].sum(axis=1).tolist() == [3, 4, 2]


@pytest.mark.parametrize("favour", [False, True], ids=["uniform", "prioritised"])
@pytest.mark.parametrize(("length", "num_valid"), [(3, 38), (9, 3)])  # of 60
def test_anchors_keep_the_frequencies_of_their_sampler(favour, length, num_valid):
    reader, view = Windows(length), FifoRows(60)
    reader.check(view)
    lengths = [4, 12, 2, 7, 5, 9, 3, 8, 1, 6, 10, 4, 4]
    view.append([end for steps in lengths for end in [0] * (steps - 1) + [1]])
    view.append([0, 0])
    chances = (lambda numbers: (numbers % 5) ** 2 + 0.5) if favour else np.ones_like
    sampler = Favourites(view, chances) if favour else Anyone(view)
    random = np.random.default_rng(3)

    draws = [draw_valid(sampler, reader, view, 50, random) for _ in range(200)]

    drawn = view.column("number")[np.concatenate([draw.slots for draw in draws])]
    valid = view.numbers[reader.valid(view, view.slots)]
    assert len(valid) == num_valid
    assert abs(chi_square(drawn, dict(zip(valid, chances(valid), strict=True)))) < 4
    if favour:
        every = chances(view.numbers).sum()
        assert np.allclose(np.concatenate([draw.probabilities for draw in draws]), chances(drawn) / every)


def test_anchors_keep_their_frequencies_where_a_sampler_deals_in_order_of_slots():
    class InOrder(Anyone):
        def draw(self, size, random):
            drawn = super().draw(size, random)
            return drawn._replace(slots=np.sort(drawn.slots))

    reader, view, random = Windows(9), FifoRows(400), np.random.default_rng(3)
    reader.check(view)
    view.append(([0] * 8 + [1] + [0] * 7 + [1]) * 30)

    draws = [draw_valid(InOrder(view), reader, view, 100, random).slots for _ in range(100)]

    valid = view.numbers[reader.valid(view, view.slots)]
    assert len(valid) == 23
    assert abs(chi_square(view.column("number")[np.concatenate(draws)], dict.fromkeys(valid, 1))) < 4


def test_a_table_without_a_valid_anchor_says_so():
    reader, view = Windows(5), FifoRows(60)
    reader.check(view)
    view.append([0, 0, 0, 1] * 30)

    with pytest.raises(NotEnoughData, match="60 rows must be a valid anchor"):
        draw_valid(Anyone(view), reader, view, 8, RANDOM)


def test_a_single_valid_anchor_is_found():
    reader, view = Windows(5), FifoRows(2000)
    reader.check(view)
    view.append([0, 0, 0, 1] * 300 + [0, 0, 0, 0, 1] + [0, 0, 0, 1] * 198)

    draw = draw_valid(Anyone(view), reader, view, 64, RANDOM)

    assert set(view.column("number")[draw.slots]) == {1200}


def test_rows_to_skip_are_no_anchor():
    reader, view = Windows(1, skip="filler"), FifoRows(6)
    reader.check(view)
    view.append([0, 1, 2, 0], filler=[False, False, True, False])

    assert reader.valid(view, view.slots).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"length": 0}, "needs 1 row or more"),
        ({"length": 2, "burn_in": -1}, "burn_in 0 or more, got 2 and -1"),
        ({"length": 2, "stride": 0}, "whole number of rows from 1 on"),
        ({"length": 2, "stride": 1.5}, "whole number of rows from 1 on"),
        ({"length": 2, "stride": math.nan}, "whole number of rows from 1 on"),
        ({"length": 2, "ends": ()}, "tuple of columns, one or more"),
        ({"length": 2, "ends": "done"}, "tuple of columns, one or more"),
    ],
)
def test_impossible_windows_are_refused(settings, rule):
    with pytest.raises(SettingsError, match=rule):
        Windows(**settings)


def test_a_table_that_does_not_fit_is_refused():
    unordered = FifoRows(10)
    unordered.is_fifo = False
    masked = FifoRows(10, schema={**SCHEMA, "mask": Column("bool")})

    for reader, view, rule in [
        (Windows(2), unordered, "first in, first out"),
        (Windows(2, ends=("done",)), FifoRows(10), r"got \['done'\]"),
        (Windows(2, skip="reset"), FifoRows(10), r"got \['reset'\]"),
        (Windows(2, pad=True), masked, "rename the table's"),
        (Windows(6, num_streams=2), FifoRows(10), "must fit into the table's 10 rows, got 12"),
        (Windows(1, num_streams=6), FifoRows(10), "1 to half the capacity"),
    ]:
        with pytest.raises(SettingsError, match=rule):
            reader.check(view)


def test_a_reader_of_one_table_refuses_another():
    reader = Windows(2)
    reader.check(FifoRows(10))

    with pytest.raises(SettingsError, match="one for each"):
        reader.check(FifoRows(10))
