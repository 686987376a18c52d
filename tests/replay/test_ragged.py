"""Rows of different lengths lie in a ring of elements, and come out as values and offsets."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fedmb.batch.collate import ANY_LENGTH, Ragged
from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptRing, SettingsError, ShapeError
from fedmb.replay.ragged import RaggedColumn, RaggedStore, chosen, joined, padded_columns
from fedmb.replay.row_store import RowStore

COLUMN = RaggedColumn("int32", 7)


def store():
    return RaggedStore(COLUMN, np.zeros(7, np.int32))


def test_a_ragged_column_is_one_of_any_length():
    column = RaggedColumn("float32", 100, (2, 3))

    assert column == Column("float32", (ANY_LENGTH, 2, 3))
    assert (column.dtype, column.max_items, column.element) == ("float32", 100, Column("float32", (2, 3)))
    assert repr(column) == "RaggedColumn('float32', 100, (2, 3))"
    twin = copy.deepcopy(column)
    assert (twin, twin.max_items) == (column, 100)


def test_no_room_for_elements_is_refused():
    with pytest.raises(SettingsError, match="must keep 1 element or more, got 0"):
        RaggedColumn("float32", 0)


def test_a_store_of_rows_alone_refuses_it():
    with pytest.raises(SettingsError, match="fixed shape"):
        RowStore.in_memory({"x": COLUMN}, 3)


def test_elements_go_round():
    elements = store()

    elements.write(0, np.arange(5, dtype=np.int32))
    elements.write(5, np.arange(5, 9, dtype=np.int32))
    rows = elements.read(np.array([5, 8, 3, 9]), np.array([3, 1, 4, 0]))

    assert rows.offsets.tolist() == [0, 3, 4, 8, 8]
    assert rows.values.tolist() == [5, 6, 7, 8, 3, 4, 5, 6]


def test_reading_no_row_gives_none():
    rows = store().read(np.empty(0, np.int64), np.empty(0, np.int64))

    assert (len(rows), rows.values.dtype) == (0, np.int32)


@pytest.mark.parametrize("length", [-1, 8, 1 << 60])
def test_a_length_that_nobody_wrote_is_refused(length):
    with pytest.raises(CorruptRing, match="must have 0 to 7 elements"):
        store().read(np.zeros(2, np.int64), np.array([1, length]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3, np.int32), "must hold ragged rows of int32"),
        ([[1, 2], [3]], "must hold ragged rows of int32"),
        (Ragged.of([np.zeros(2, np.int64)]), "got int64"),
        (Ragged.of([np.zeros((2, 1), np.int32)]), r"got int32 \(1,\)"),
        (Ragged.of([np.zeros(8, np.int32)]), "at most the 7 elements that the ring keeps, got 8"),
    ],
)
def test_rows_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ShapeError, match=message):
        store().checked("x", values)


def test_chosen_rows_joined_again_are_the_same_rows():
    rows = Ragged.of([np.arange(n) for n in (3, 0, 2, 1)])

    first, second = chosen(rows, np.array([2, 1])), chosen(rows, np.array([0]))
    both = joined([first, second])

    assert [both.values[a:b].tolist() for a, b in zip(both.offsets, both.offsets[1:], strict=False)] == [
        [0, 1],
        [],
        [0, 1, 2],
    ]
    assert joined([np.array([1]), np.array([2])]).tolist() == [1, 2]
    assert chosen(np.array([5, 6]), np.array([1])).tolist() == [6]


def test_padding_puts_a_mask_beside_each_ragged_column():
    columns = {"x": Ragged.of([np.array([1, 2]), np.array([3])]), "y": np.array([0, 1])}

    padded = padded_columns(columns, length={"x": 3}, fill=9)

    assert padded["x"].tolist() == [[1, 2, 9], [3, 9, 9]]
    assert padded["x_mask"].tolist() == [[True, True, False], [True, False, False]]
    assert padded["y"] is columns["y"]
    assert padded_columns(columns)["x"].shape == (2, 2)
