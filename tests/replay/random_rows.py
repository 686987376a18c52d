"""Schemas and rows by chance, for whatever stores rows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]
COLUMN = st.builds(Column, st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3).map(tuple))
SCHEMA = st.dictionaries(st.text("abc_:", min_size=1, max_size=3), COLUMN, min_size=1, max_size=6)


def random_columns(schema, count, generator):
    """Rows of any values, infinite ones and NaN among them."""
    columns = {}
    for name, column in schema.items():
        dtype = np.dtype(column.dtype)
        size = count * int(np.prod(column.shape, dtype=int))
        raw = generator.integers(0, 256, size * dtype.itemsize, np.uint8)
        values = raw % 2 == 0 if dtype.kind == "b" else raw.view(dtype)
        if dtype.kind in "fc":
            values = np.where(np.isnan(values), dtype.type(np.nan), values)  # which bits say so is not always kept
        columns[name] = values.reshape(count, *column.shape)
    return columns


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def same_columns(one, other):
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)
