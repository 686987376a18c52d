import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import ShapeError
from fedmb.replay.given_rows import GivenRows, checked_priorities

SCHEMA = {"x": Column("float32", (2,)), "y": Column("int64")}


def columns(count=3, **changed):
    return {"x": np.zeros((count, 2), np.float32), "y": np.zeros(count, np.int64), **changed}


def test_rows_of_the_schema_are_counted():
    assert GivenRows(SCHEMA).count(columns(3)) == 3
    assert GivenRows(SCHEMA).count(columns(0)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.zeros((3, 2))},
        {"x": np.zeros((3, 3), np.float32)},
        {"x": np.zeros(3, np.float32)},
        {"y": np.zeros(2, np.int64)},
        {"y": np.zeros((), np.int64)},
        {"z": np.zeros(3, np.int64)},
    ],
    ids=lambda wrong: str([(name, array.dtype.name, array.shape) for name, array in wrong.items()]),
)
def test_other_columns_are_refused(wrong):
    with pytest.raises(ShapeError, match="column"):
        GivenRows(SCHEMA).count(columns(**wrong))


def test_a_missing_column_is_refused():
    with pytest.raises(ShapeError, match=r"columns must be \['x', 'y'\], got \['x'\]"):
        GivenRows(SCHEMA).count({"x": np.zeros((3, 2), np.float32)})


def test_one_row_becomes_columns():
    found = GivenRows(SCHEMA).columns([[1, 2], 7])

    assert {name: (array.dtype.name, array.tolist()) for name, array in found.items()} == {
        "x": ("float32", [[1.0, 2.0]]),
        "y": ("int64", [7]),
    }
    with pytest.raises(ShapeError, match="a row"):
        GivenRows(SCHEMA).columns([[1, 2, 3], 7])


def test_priorities_are_one_for_each_row():
    assert checked_priorities([1, 0, 2], 3).dtype == np.float64
    with pytest.raises(ShapeError, match="there must be a priority for each of 3 rows, got shape"):
        checked_priorities(np.ones(2), 3)


@pytest.mark.parametrize("wrong", [-1e-9, np.nan, np.inf, float("-inf")])
def test_a_priority_without_meaning_is_refused(wrong):
    with pytest.raises(ValueError, match=f"must be 0 to 1e\\+100, got {wrong} among 2"):
        checked_priorities(np.array([1.0, wrong]), 2)
