"""Rows become columns by plain dtype rules; padding is masked and weighs nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.collate import ANY_LENGTH, Ragged, array_of, columns_of, padded, padded_names, stacked
from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import ShapeError


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "bool"),
        (3, "int64"),
        (0.5, "float32"),
        ([1, 2], "int64"),
        ([0.5, 1], "float32"),
        (np.float64(0.5), "float64"),
        (np.zeros(2, np.int16), "int16"),
        (torch.zeros(2, dtype=torch.float16), "float16"),
        (torch.ones(2, requires_grad=True), "float32"),
    ],
)
def test_a_value_has_the_dtype_of_its_kind(value, dtype):
    assert array_of(value).dtype == dtype


@pytest.mark.parametrize("value", ["text", None, [[1], [2, 3]], {"a": 1}])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(ShapeError, match="a value must be numbers"):
        array_of(value)


def test_mappings_tuples_and_single_values_become_columns():
    expected = {"x": [[1, 2], [3, 4]], "y": [5, 6]}
    as_mappings = stacked([{"x": [1, 2], "y": 5}, {"y": 6, "x": [3, 4]}])
    as_tuples = stacked([([1, 2], 5), ([3, 4], 6)], names=["x", "y"])
    as_values = stacked([5, 6], names=["y"])

    assert {name: column.tolist() for name, column in as_mappings.columns.items()} == expected
    assert {name: column.tolist() for name, column in as_tuples.columns.items()} == expected
    assert as_values.columns["y"].tolist() == [5, 6]


def test_columns_can_be_chosen_from_mappings():
    assert columns_of([{"x": 1, "name": "a"}], names=["x"]).keys() == {"x"}


def test_rows_without_names_or_of_other_columns_are_refused():
    with pytest.raises(ShapeError, match=r"pass names=\['x', 'y'\]"):
        stacked([(1, 2)])
    with pytest.raises(ShapeError, match="a name for each place"):
        stacked([(1, 2), (1, 2, 3)], names=["x", "y"])
    with pytest.raises(ShapeError, match="every row must have the columns"):
        stacked([{"x": 1}, {"z": 1}])
    with pytest.raises(ShapeError, match=r"column 'x' must be of one dtype and shape.*pad them"):
        stacked([{"x": [1]}, {"x": [1, 2]}])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8), st.integers(0, 9))
def test_padding_keeps_every_token_in_its_place_and_fills_the_rest(rows, fill):
    ragged = Ragged.of([np.array(row, np.int16) for row in rows])

    values, mask = ragged.padded(np.arange(len(rows)), fill=fill)

    width = max(1, *map(len, rows))
    assert values.tolist() == [row + [fill] * (width - len(row)) for row in rows]
    assert mask.tolist() == [[place < len(row) for place in range(width)] for row in rows]
    assert (values.dtype, ragged.lengths.tolist()) == (np.int16, [len(row) for row in rows])


def test_rows_are_chosen_and_tokens_may_be_vectors():
    ragged = Ragged.of([np.full((length, 2), length, np.float32) for length in (3, 1, 2)])

    values, mask = ragged.padded(np.array([2, 1]), length=4, fill=-1)

    assert values[..., 0].tolist() == [[2, 2, -1, -1], [1, -1, -1, -1]]
    assert values.shape == (2, 4, 2)
    assert mask.sum(1).tolist() == [2, 1]


def test_padding_that_does_not_fit_is_refused():
    ragged = Ragged.of([np.zeros(3, np.uint8)])

    with pytest.raises(ShapeError, match="padded length 2, got one of 3"):
        ragged.padded(np.array([0]), length=2)
    with pytest.raises(ShapeError, match=r"a value of dtype uint8, got 0\.5"):
        ragged.padded(np.array([0]), fill=0.5)


def test_what_is_not_ragged_rows_is_refused():
    for rows in ([], [np.zeros(2), np.zeros(2, np.int8)], [np.zeros((1, 2)), np.zeros((1, 3))], [3, 4]):
        with pytest.raises(ShapeError, match="ragged rows must be"):
            Ragged.of(rows)
    for offsets in ([0, 2], [1, 3], [0, 4, 3], []):
        with pytest.raises(ShapeError, match="offsets must rise"):
            Ragged(np.zeros(3), np.array(offsets, np.int64))


def test_a_padded_batch_counts_its_tokens_as_units_and_follows_a_schema_of_any_length():
    rows = [{"words": [4, 5], "label": 1}, {"words": [6], "label": 0}, {"words": [7, 8, 9], "label": 1}]

    batch = padded(rows, ragged=["words"])

    assert batch.units.tolist() == [2, 1, 3]
    assert batch.columns["words"].tolist() == [[4, 5, 0], [6, 0, 0], [7, 8, 9]]
    schema = {
        "words": Column("int64", (ANY_LENGTH,)),
        "words_mask": Column("bool", (ANY_LENGTH,)),
        "label": Column("int64"),
    }
    assert check_columns(batch.columns, schema) == 3
    with pytest.raises(ShapeError, match="ragged columns must be some of"):
        padded(rows, ragged=["tokens"])


def test_any_length_equals_lengths_and_nothing_else():
    assert ANY_LENGTH == 5
    assert not ANY_LENGTH != 5  # noqa: SIM202  # both operators are ours
    assert (3, ANY_LENGTH) == (3, 8)
    assert (3, ANY_LENGTH) != (4, 8)
    assert ANY_LENGTH != "5"
    with pytest.raises(ShapeError, match="ANY_LENGTH"):
        check_columns({"x": np.zeros((2, 3), np.int8)}, {"x": Column("int16", (ANY_LENGTH,))})


def test_columns_with_a_mask_as_long_are_padded_ones():
    mask = Column("bool", (4,))
    schema = {
        "a": Column("int8", (4, 2)),
        "a_mask": mask,
        "b": Column("int8", (3,)),
        "b_mask": mask,
        "c": Column("int8"),
    }

    assert padded_names(schema) == ("a",)
    assert padded_names({"t": Column("int8", (ANY_LENGTH,)), "t_mask": Column("bool", (ANY_LENGTH,))}) == ("t",)


def test_each_ragged_column_may_have_a_length_of_its_own():
    batch = padded([{"a": [1], "b": [1, 2]}], ragged=["a", "b"], length={"a": 2, "b": 3})

    assert (batch.columns["a"].shape, batch.columns["b"].shape) == ((1, 2), (1, 3))
