"""Rows lie as structs or as columns, by what is faster and not mostly padding."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.row_layout import LARGE_ROW, MOST_PADDING, RowLayout, row_struct

TRANSITION = {
    "observation": Column("float32", (17,)),
    "action": Column("float32", (6,)),
    "reward": Column("float32"),
    "next": Column("float32", (17,)),
    "done": Column("bool"),
}


def test_small_rows_lie_as_structs_with_little_padding():
    layout = RowLayout(TRANSITION, 1000)

    assert layout.kind == "rows"
    assert layout.row_bytes == 165
    assert layout.num_bytes <= MOST_PADDING * 1000 * 165


def test_large_rows_lie_by_columns():
    assert RowLayout({"image": Column("uint8", (4, 84, 84))}, 10).kind == "columns"
    assert RowLayout({"x": Column("uint8", (LARGE_ROW,))}, 10).kind == "rows"


def test_rows_that_would_be_mostly_padding_lie_by_columns():
    tiny = {"x": Column("float64"), "done": Column("bool")}

    assert RowLayout(tiny, 1000).kind == "columns"
    assert RowLayout(tiny, 1000).num_bytes <= MOST_PADDING * 1000 * 9
    assert RowLayout(tiny, 1000, "rows").num_bytes == 16_000


def test_a_struct_is_the_same_whatever_the_order_of_the_schema():
    assert row_struct(TRANSITION) == row_struct(dict(reversed(TRANSITION.items())))


def test_fields_of_a_struct_are_aligned_and_leave_no_gap_but_at_the_end():
    struct = row_struct({**TRANSITION, "id": Column("int64"), "half": Column("float16", (3,))})

    ends = 0
    for name in struct.names:
        form, offset = struct.fields[name][:2]
        assert offset == ends
        assert offset % form.base.alignment == 0
        ends = offset + form.itemsize
    assert 0 <= struct.itemsize - ends < 8
    assert struct.itemsize % 8 == 0


def test_a_struct_is_one_that_other_libraries_can_stride_over():
    struct = row_struct(TRANSITION)

    assert all(struct.itemsize % struct[name].base.itemsize == 0 for name in struct.names)


def test_columns_begin_on_cache_lines():
    layout = RowLayout(TRANSITION, 7, "columns")
    columns = layout.columns(np.zeros(layout.num_bytes, np.uint8))

    addresses = np.array([columns[name].ctypes.data for name in sorted(TRANSITION)])
    assert ((addresses - addresses[0]) % 64 == 0).all()


def test_an_unknown_layout_is_refused():
    with pytest.raises(SettingsError, match="auto, rows or columns, got 'wide'"):
        RowLayout(TRANSITION, 7, "wide")


@pytest.mark.parametrize(
    ("schema", "capacity"),
    [({}, 5), (TRANSITION, 0), ({"x": Column("object")}, 5), ({"x": Column("int8", (-1,))}, 5)],
)
def test_impossible_rows_are_refused(schema, capacity):
    with pytest.raises(SettingsError):
        RowLayout(schema, capacity)


@pytest.mark.parametrize("column", ["float32", Column("flaot32"), ("float32", (4,))], ids=str)
def test_what_is_no_column_is_refused_by_its_name(column):
    with pytest.raises(SettingsError, match=r"column 'x' must be like Column\(\"float32\", \(4,\)\)"):
        RowLayout({"x": column}, 5)
