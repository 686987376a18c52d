"""Rows go to a device and come back bit for bit, whatever their columns and layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, ShapeError
from fedmb.training.device_rows import DeviceRows

CPU = torch.device("cpu")
DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]
SHAPES = [(), (1,), (3,), (2, 5), (0,), (3, 1, 2)]
columns_of_a_row = st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), min_size=1, max_size=6)


def random_columns(schema, count, seed):
    random = np.random.default_rng(seed)
    found = {}
    for name, column in schema.items():
        num_bytes = count * np.dtype((column.dtype, column.shape)).itemsize
        raw = random.integers(0, 2 if column.dtype == "bool" else 128, num_bytes, np.uint8)
        found[name] = raw.view(column.dtype).reshape(count, *column.shape)
    return found


def same_bits(tensor, array):
    return tensor.contiguous().numpy().tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("as_tensors", [False, True])
@given(columns_of_a_row, st.sampled_from(["auto", "rows", "columns"]), st.integers(0, 30), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_what_was_written_last_into_a_slot_is_read(as_tensors, forms, layout, number, count):
    schema = {f"c{place}": Column(*form) for place, form in enumerate(forms)}
    rows = DeviceRows(schema, 9, CPU, layout=layout)
    columns = random_columns(schema, count, number)
    given_columns = {name: torch.from_numpy(one) for name, one in columns.items()} if as_tensors else columns
    slots = (number + np.random.default_rng(1).integers(0, count, 12)) % 9

    assert rows.count(given_columns) == count
    rows.write(number, given_columns, count)
    read = rows.read(torch.from_numpy(slots))

    assert list(read) == list(schema)
    for name, column in schema.items():
        assert read[name].shape == (12, *column.shape)
        assert read[name].dtype == torch.from_numpy(columns[name]).dtype
        assert same_bits(read[name], columns[name][(slots - number) % 9])


def test_small_rows_are_drawn_as_one_block_and_large_ones_by_columns():
    small = {"x": Column("float32", (17,)), "reward": Column("float32"), "done": Column("bool")}
    large = {"x": Column("uint8", (4, 84, 84)), "reward": Column("float32")}

    by_rows, by_columns = DeviceRows(small, 9, CPU), DeviceRows(large, 3, CPU)
    drawn = by_rows.read(torch.tensor([1, 2, 1]))

    assert (by_rows.layout, by_columns.layout) == ("rows", "columns")
    assert len({column.untyped_storage().data_ptr() for column in drawn.values()}) == 1
    assert by_rows.num_bytes <= 1.15 * 9 * by_rows.row_bytes
    assert by_columns.num_bytes == 3 * by_columns.row_bytes


def test_rows_that_are_kept_come_in_the_order_asked_for():
    schema = {"x": Column("int64"), "y": Column("float32", (2,))}
    rows = DeviceRows(schema, 5, CPU)
    rows.write(8, random_columns(schema, 5, 0), 5)

    kept = rows.stored(3, 5)

    assert {name: one.tolist() for name, one in kept.items()} == {
        name: one.tolist() for name, one in random_columns(schema, 5, 0).items()
    }


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"x": np.zeros((2, 4), np.float32), "n": np.zeros(2, np.int64)}, "column 'x' must hold"),
        ({"x": torch.zeros(2, 4), "n": torch.zeros(2, dtype=torch.int64)}, "columns must be tensors of"),
        ({"x": torch.zeros(2, 3), "n": np.zeros(2, np.int64)}, "all of them or none"),
        ({"x": torch.zeros(2, 3), "n": torch.zeros((), dtype=torch.int64)}, "columns must be tensors of"),
        ({"x": torch.zeros(2, 3)}, "columns must be tensors of"),
        ({"x": torch.zeros(2, 3), "n": torch.zeros(3, dtype=torch.int64)}, r"equal length, got lengths \[2, 3\]"),
    ],
)
def test_columns_that_do_not_follow_the_schema_are_refused(columns, sentence):
    rows = DeviceRows({"x": Column("float32", (3,)), "n": Column("int64")}, 5, CPU)

    with pytest.raises(ShapeError, match=sentence):
        rows.count(columns)


def test_a_dtype_that_torch_does_not_have_is_refused():
    with pytest.raises(SettingsError, match="'x' of longdouble"):
        DeviceRows({"x": Column("longdouble")}, 5, CPU)
