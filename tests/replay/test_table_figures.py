import numpy as np
import pytest

from fedmb.replay.table_figures import age_figures, priority_figures, spread


def test_a_spread_says_what_numbers_are_like():
    found = spread(np.arange(101.0))

    assert (found["count"], found["mean"], found["min"], found["max"]) == (101, 50, 0, 100)
    assert found["quartiles"] == [25, 50, 75]
    assert sum(found["histogram"]["counts"]) == 101
    assert len(found["histogram"]["edges"]) == 11


def test_nothing_is_spread_over_nothing():
    assert spread(np.empty(0)) == {"count": 0}


@pytest.mark.parametrize("count", [1, 7])
def test_equal_numbers_have_a_histogram_too(count):
    assert sum(spread(np.full(count, 3.0))["histogram"]["counts"]) == count


def test_ages_are_counted_in_rows():
    found = age_figures(np.array([5, 9, 0]), 10)

    assert (found["min"], found["max"]) == (0, 9)


def test_slots_without_a_chance_hold_no_row():
    assert priority_figures({"leaves": np.array([[0.0, 2.0], [0.0, 4.0]])})["mean"] == 3
    assert priority_figures({"leaves": None}) == {}
    assert priority_figures({"count": 3}) == {}
