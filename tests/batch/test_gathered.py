"""Rows made on demand keep the order of a table, and a draw has a name that a resumed run finds again."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.gathered import GatheredSource
from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError, ShapeError

SCHEMA = {"y": Column("int64"), "epoch": Column("int64"), "cursor": Column("int64")}


def named(numbers, place):
    """Rows that tell by which draw they were made."""
    count = len(numbers)
    return MiniBatch({"y": numbers, **{name: np.full(count, place[name]) for name in ("epoch", "cursor")}})


@pytest.mark.parametrize("tail", ["balance", "keep", "drop"])
def test_numbers_come_in_the_order_of_a_table_of_them(tail):
    numbers = np.array([3, 5, 8, 13, 21, 34, 55])
    source = GatheredSource(numbers, named, SCHEMA, seed=2, client="a", tail=tail)
    table = TableSource({"y": numbers}, seed=2, client="a", tail=tail)

    for size in [3, 2, 3, 3] * 3:
        assert source.take(size).columns["y"].tolist() == table.take(size).columns["y"].tolist()
    assert source.examples_per_epoch == 7


def test_no_two_draws_have_one_name():
    source = GatheredSource(np.arange(9), named, SCHEMA, seed=2, client="a")
    names = set()
    for _ in range(12):
        columns = source.take(4).columns
        names.add((int(columns["epoch"][0]), int(columns["cursor"][0])))

    assert len(names) == 12


def test_rows_of_another_form_leave_the_position_before_them():
    source = GatheredSource(np.arange(9), lambda numbers, _: MiniBatch({"y": numbers}), SCHEMA, seed=0, client=0)

    with pytest.raises(ShapeError, match="columns must be"):
        source.take(2)
    assert source.position() == {"epoch": 0, "cursor": 0}


def test_no_number_is_refused():
    with pytest.raises(SettingsError, match="at least one row"):
        GatheredSource(np.arange(0), named, SCHEMA, seed=0, client=0)
