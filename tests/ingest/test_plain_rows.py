import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError
from fedmb.ingest.plain_rows import column_of, raw_column_of


def test_rows_become_a_column_of_their_dtype_and_shape():
    found = column_of("x", [[[1, 2.5]], [[3, -0.0]]], Column("float16", (1, 2)))

    assert (found.dtype.name, found.tolist()) == ("float16", [[[1, 2.5]], [[3, 0]]])
    assert column_of("n", [(1 << 64) - 1, 0], Column("uint64")).tolist() == [(1 << 64) - 1, 0]


@pytest.mark.parametrize(
    ("rows", "wanted", "rule"),
    [
        ([1, 2.0], Column("int8"), "whole numbers"),
        ([1, True], Column("int8"), "whole numbers"),
        ([1, 128], Column("int8"), "from -128 to 127, got 128"),
        ([1, None], Column("float32"), "numbers, got None"),
        ([1.0, 1e39], Column("float32"), "finite float32"),
        ([10**400], Column("float64"), "fit float64"),
        ([[1, 2], [3]], Column("int8", (2,)), r"shape \[2\]"),
        ([[1, 2], (3, 4)], Column("int8", (2,)), r"shape \[2\]"),
        ([0], Column("bool"), "true or false"),
    ],
)
def test_one_row_that_does_not_fit_is_enough(rows, wanted, rule):
    with pytest.raises(DecodeError, match=rule):
        column_of("x", rows, wanted)


def test_bytes_become_a_column():
    wanted = Column("int16", (2,))

    assert raw_column_of("x", [b"\1\0\2\0", b"\xff\xff\0\0"], wanted).tolist() == [[1, 2], [-1, 0]]
    assert raw_column_of("x", [b"\1\0\2\0"], wanted).dtype == np.int16
    for bad in (b"\1\0\2", b"\1\0\2\0\0", "1234", None, bytearray(4)):
        with pytest.raises(DecodeError, match="4 bytes"):
            raw_column_of("x", [b"\1\0\2\0", bad], wanted)
