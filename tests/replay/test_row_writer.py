"""One row is written as NumPy would write it, or refused before its first byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import DTYPES, SCHEMA, random_columns, same_bits

from fedmb.batch.minibatch import Column
from fedmb.errors import ShapeError
from fedmb.replay.row_store import RowStore
from fedmb.replay.row_writer import checked

MIXED = {
    "vector": Column("float32", (3,)),
    "number": Column("float32"),
    "count": Column("int32"),
    "small": Column("int8", (2,)),
    "done": Column("bool"),
    "image": Column("uint8", (2, 2)),
}
GOOD = [np.arange(3, dtype=np.float32), 1.5, 7, np.array([1, -1], np.int8), True, np.ones((2, 2), np.uint8)]


@pytest.fixture(params=["rows", "columns"])
def store(request):
    store = RowStore.in_memory(MIXED, 4, layout=request.param)
    store.write_row(2, GOOD)
    return store


def changed(place, value):
    return [value if index == place else good for index, good in enumerate(GOOD)]


def content(store, slot=2):
    return {name: column[0] for name, column in store.read(np.array([slot])).items()}


@settings(deadline=None, max_examples=60)
@given(SCHEMA, st.sampled_from(["rows", "columns"]), st.integers(0, 1 << 32))
def test_a_row_written_alone_is_the_row_of_a_batch(schema, layout, seed):
    columns = random_columns(schema, 3, np.random.default_rng(seed))
    alone, batch = (RowStore.in_memory(schema, 3, layout=layout) for _ in range(2))

    batch.write(slice(0, 3), columns)
    for slot in range(3):
        alone.write_row(slot, [column[slot] for column in columns.values()])

    assert alone.read_block(np.arange(3)).tobytes() == batch.read_block(np.arange(3)).tobytes()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 1.0),  # a number must not spread over a vector
        (0, np.float32(1)),
        (0, np.ones(1, np.float32)),
        (0, np.ones(4, np.float32)),
        (0, np.ones((3, 1), np.float32)),
        (0, np.ones((1, 3), np.float32)),
        (0, [1.0, 2.0]),
        (0, np.ones(3, np.complex64)),
        (0, "abc"),
        (0, None),
        (1, np.ones(2, np.float32)),
        (1, "1"),
        (1, None),
        (2, 1.5),
        (2, np.float32(1)),
        (2, 1 << 31),
        (2, [1, 2]),
        (3, np.array([1, 200])),
        (3, np.array([0.5, 1])),
        (4, [True, False]),
        (4, None),
        (5, np.ones((2, 1), np.uint8)),
        (5, np.ones(4, np.uint8)),
        (5, 1),
    ],
)
def test_a_wrong_value_is_refused_and_nothing_is_written(store, place, value):
    before = content(store)

    with pytest.raises(ShapeError, match=f"'{list(MIXED)[place]}' must hold"):
        store.write_row(2, changed(place, value))
    assert all(same_bits(content(store)[name], before[name]) for name in MIXED)


@pytest.mark.parametrize("row", [GOOD[:-1], [*GOOD, 1], []])
def test_a_row_of_another_length_is_refused(store, row):
    with pytest.raises(ShapeError, match=f"got {len(row)}"):
        store.write_row(2, row)


@pytest.mark.parametrize(
    ("place", "value", "stored"),
    [
        (0, [1, 2, 3], np.array([1, 2, 3], np.float32)),
        (0, np.arange(3), np.arange(3, dtype=np.float32)),
        (0, np.arange(3.0), np.arange(3, dtype=np.float32)),
        (0, np.arange(6, dtype=np.float32)[::2], np.array([0, 2, 4], np.float32)),
        (0, np.arange(3, dtype=">f4"), np.arange(3, dtype=np.float32)),
        (1, 2, np.float32(2)),
        (1, np.float64(2.5), np.float32(2.5)),
        (1, np.array(2.5, np.float32), np.float32(2.5)),
        (1, np.int64(3), np.float32(3)),
        (2, np.int64(-5), np.int32(-5)),
        (2, np.uint8(5), np.int32(5)),
        (2, True, np.int32(1)),
        (3, [1, -128], np.array([1, -128], np.int8)),
        (4, 0, np.False_),
        (4, np.float32(0.5), np.True_),
        (4, np.False_, np.False_),
        (5, [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], np.uint8)),
        (5, np.arange(4, dtype=np.uint8).reshape(2, 2).T, np.array([[0, 2], [1, 3]], np.uint8)),
    ],
)
def test_a_value_of_another_kind_is_cast_where_that_keeps_its_meaning(store, place, value, stored):
    store.write_row(2, changed(place, value))

    assert same_bits(np.asarray(content(store)[list(MIXED)[place]]), np.asarray(stored))
    others = [name for index, name in enumerate(MIXED) if index != place]
    assert all(same_bits(np.asarray(content(store)[name]), np.asarray(store.column(name)[2])) for name in others)


def test_numbers_beyond_a_float_are_infinite_as_in_numpy():
    store = RowStore.in_memory({"x": Column("float32"), "half": Column("float16")}, 1)

    with np.errstate(over="ignore"):
        store.write_row(0, [1e300, 1e300])

    assert np.isinf(store.column("x")[0])
    assert np.isinf(store.column("half")[0])


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_number_of_every_dtype_is_stored(layout, dtype):
    store = RowStore.in_memory({"x": Column(dtype)}, 2, layout=layout)

    store.write_row(1, [np.ones((), dtype)])
    store.write_row(0, [1])

    assert store.column("x").tolist() == [1, 1]


def test_whoever_checks_a_row_gets_arrays():
    arrays = checked(GOOD, MIXED)

    assert all(isinstance(array, np.ndarray) for array in arrays)
    with pytest.raises(ShapeError):
        checked(GOOD[1:], MIXED)


def test_a_name_never_enters_the_code_that_is_made():
    name = "x'] = 0; import os  # \n"

    store = RowStore.in_memory({name: Column("float32", (2,))}, 1)
    store.write_row(0, [np.ones(2, np.float32)])

    assert store.column(name).tolist() == [[1, 1]]
