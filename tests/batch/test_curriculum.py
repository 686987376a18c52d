"""A curriculum draws the easiest rows first and ends as plain shuffling, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.curriculum import Curriculum, root_pace
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError

ROWS = 60
COLUMNS = {"row": np.arange(ROWS), "x": np.random.default_rng(0).standard_normal(ROWS).astype(np.float32)}


def curriculum(pace, score="x", **options):
    return Curriculum(COLUMNS, score, pace, seed=4, client="a", **options)


def test_a_linear_pace_rises_evenly_and_a_root_pace_faster():
    linear, root = root_pace(0.2, 100), root_pace(0.2, 100, power=2)

    assert [linear(seen) for seen in (0, 50, 100, 500)] == pytest.approx([0.2, 0.6, 1, 1])
    assert root(0) == pytest.approx(0.2)
    assert root(50) == pytest.approx(np.sqrt(0.52))
    assert root(100) == 1.0


@settings(deadline=None)
@given(st.floats(0.01, 1), st.integers(1, 300), st.integers(1, 20))
def test_rows_are_the_easiest_that_the_pace_allows_each_once_per_pass(start, samples, size):
    pace = root_pace(start, samples)
    source = curriculum(pace)
    easiest_first = np.argsort(COLUMNS["x"], kind="stable")

    seen = 0
    for number in range(4):
        drawn = []
        while source.position()["epoch"] == number:
            drawn += source.take(size).columns["row"].tolist()
        allowed = max(1, int(np.ceil(pace(seen) * ROWS)))
        assert sorted(drawn) == sorted(easiest_first[:allowed].tolist())
        seen += len(drawn)


@pytest.mark.parametrize("tail", ["balance", "keep", "drop"])
def test_once_the_pace_is_one_rows_are_the_table_sources_bitwise(tail):
    source = curriculum(root_pace(0.3, 150), tail=tail)
    while source.position()["cursor"] or source.allowed < ROWS:
        source.take(5)  # divides the table, so that a full pass ends under "drop" too
    table = TableSource(COLUMNS, seed=4, client="a", tail=tail)
    table.seek({"epoch": source.position()["epoch"], "cursor": 0})

    assert source.position()["epoch"] > 2
    for size in [7, 7, 5, 9, 16, 3] * 6:
        one, other = source.take(size), table.take(size)
        assert all(one.columns[name].tobytes() == other.columns[name].tobytes() for name in COLUMNS)


def test_a_pace_of_one_is_plain_shuffling_from_the_start():
    source, table = curriculum(lambda seen: 1.0), TableSource(COLUMNS, seed=4, client="a")

    for _ in range(30):
        assert source.take(8).columns["row"].tolist() == table.take(8).columns["row"].tolist()


def test_scores_come_as_a_column_an_array_or_a_function():
    pace = root_pace(0.1, 1000)
    scores = [-COLUMNS["x"], lambda columns: -columns["x"]]
    hardest = np.argsort(-COLUMNS["x"], kind="stable")[:6]

    for score in scores:
        assert sorted(curriculum(pace, score).take(6).columns["row"]) == sorted(hardest)
    assert sorted(curriculum(pace, "row").take(6).columns["row"]) == [0, 1, 2, 3, 4, 5]


def test_a_batch_larger_than_the_allowed_part_is_refused_under_drop_only():
    assert len(curriculum(root_pace(0.1, 1000)).take(20)) == 6
    with pytest.raises(SettingsError, match="the 6 rows that the pace allows under tail 'drop', got size 20"):
        curriculum(root_pace(0.1, 1000), tail="drop").take(20)


@pytest.mark.parametrize("score", ["z", np.zeros(3), np.full(ROWS, np.nan), np.array(["a"] * ROWS)])
def test_scores_that_are_not_one_number_a_row_are_refused(score):
    with pytest.raises(SettingsError, match="score"):
        curriculum(root_pace(0.1, 10), score)


def test_paces_outside_zero_to_one_are_refused():
    for pace in (lambda seen: 1.5, lambda seen: -0.1, lambda seen: float("nan")):
        with pytest.raises(SettingsError, match="a pace must be 0 to 1"):
            curriculum(pace)
    for arguments in ((0, 10), (1.1, 10), (0.5, 0)):
        with pytest.raises(SettingsError, match="a pace needs"):
            root_pace(*arguments)
