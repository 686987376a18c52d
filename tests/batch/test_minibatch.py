"""A mini-batch holds columns of equal length and adds up without losing a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column, MiniBatch, check_columns, concatenated, schema_of
from fedmb.errors import ShapeError, StaleUpdate
from fedmb.ledger import Position, Span, StreamPartition

SCHEMA = {"x": Column("float32", (2,)), "y": Column("uint8")}
METER = StreamPartition("log", "meter", 0)


def columns(rows: int, first: int = 0) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + rows)
    return {"x": np.stack([numbers, -numbers], axis=1).astype(np.float32), "y": (numbers % 256).astype(np.uint8)}


def test_the_schema_of_columns_is_what_they_follow():
    assert schema_of(columns(3)) == SCHEMA
    assert check_columns(columns(3), SCHEMA) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.zeros(3)}, "columns must be"),
        ({"y": np.zeros(3, np.int64)}, "column 'y' must hold uint8"),
        ({"x": np.zeros((3, 4), np.float32)}, "column 'x' must hold float32"),
        ({"y": np.uint8(3)}, "column 'y'"),
        ({"y": np.zeros(4, np.uint8)}, "equal length"),
        ({"y": [1, 2, 3]}, "column 'y' must be an array, got list"),
    ],
)
def test_columns_that_break_the_schema_are_refused(change, message):
    with pytest.raises(ShapeError, match=message):
        check_columns({**columns(3), **change}, SCHEMA)


def test_a_mini_batch_without_columns_is_refused():
    with pytest.raises(ShapeError, match="at least one column"):
        MiniBatch({})


@pytest.mark.parametrize("extra", [{"mask": np.ones(2, bool)}, {"units": np.ones(4, np.float32)}])
def test_mask_and_units_are_as_long_as_the_columns(extra):
    with pytest.raises(ShapeError, match="equal length"):
        MiniBatch(columns(3), **extra)


def test_masked_rows_weigh_nothing_and_others_their_units():
    batch = MiniBatch(columns(3), mask=np.array([True, False, True]), units=np.array([2, 3, 4], np.float32))

    assert batch.effective_units().tolist() == [2, 0, 4]
    assert MiniBatch(columns(3)).effective_units().tolist() == [1, 1, 1]


def test_rows_are_views_without_span_and_origins():
    batch = MiniBatch(columns(4), span={METER: Span(Position(0), Position(4))}, origins={"stream": 4})

    part = batch.rows(1, 3)

    assert np.shares_memory(part.columns["x"], batch.columns["x"])
    assert (len(part), part.span, part.origins) == (2, {}, {})


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=5))
def test_concatenating_the_parts_gives_the_whole(parts):
    batches, first = [], 0
    for rows, is_weighted in parts:
        batches.append(
            MiniBatch(
                columns(rows, first),
                units=np.full(rows, 3, np.float32) if is_weighted else None,
                span={METER: Span(Position(first), Position(first + rows))},
                origins={"stream": rows},
            )
        )
        first += rows

    whole = concatenated(batches)

    for name, column in columns(first).items():
        assert np.array_equal(whole.columns[name], column)
    assert np.array_equal(whole.effective_units(), np.concatenate([part.effective_units() for part in batches]))
    assert whole.span == {METER: Span(Position(0), Position(first))}
    assert whole.origins == {"stream": first}


def test_parts_with_a_gap_between_them_are_not_concatenated():
    parts = [MiniBatch(columns(1), span={METER: Span(Position(at), Position(at + 1))}) for at in (0, 2)]

    with pytest.raises(StaleUpdate):
        concatenated(parts)


def test_parts_of_other_columns_are_not_concatenated():
    with pytest.raises(ShapeError):
        concatenated([MiniBatch(columns(1)), MiniBatch({"x": columns(1)["x"]})])
    with pytest.raises(ShapeError, match="nothing to concatenate"):
        concatenated([])
