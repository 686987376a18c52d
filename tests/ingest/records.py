"""Rows to encode, and what happens to records on their way: for the tests of the codecs beside this file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError
from fedmb.ingest.codec import DTYPES

if TYPE_CHECKING:
    import random

EVERY = {
    **{f"one_{dtype}": Column(dtype) for dtype in DTYPES},
    **{f"many_{dtype}": Column(dtype, (2, 3)) for dtype in DTYPES},
}
"""A column of each dtype, with axes and without."""


def rows_of(schema, rows: int, seed: int = 0):
    """Random columns, extremes of every dtype among them."""
    draw = np.random.default_rng(seed)
    columns = {}
    for name, column in schema.items():
        dtype, shape = np.dtype(column.dtype), (rows, *column.shape)
        if dtype.kind == "b":
            columns[name] = draw.integers(0, 2, shape).astype(dtype)
            continue
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        bits = draw.bytes(int(np.prod(shape)) * dtype.itemsize)
        array = np.frombuffer(bits, dtype).reshape(shape).copy()
        array[~np.isfinite(array)] = 0
        extremes = array.reshape(-1)[: 2 * rows : 2]
        extremes[:] = np.array([limits.min, limits.max], dtype)[draw.integers(0, 2, len(extremes))]
        columns[name] = array
    return columns


def assert_same(ones, others) -> None:
    """The same columns, bit for bit."""
    assert ones.keys() == others.keys()
    for name in ones:
        assert (ones[name].dtype, ones[name].shape) == (others[name].dtype, others[name].shape), name
        assert ones[name].tobytes() == others[name].tobytes(), name


def assert_allowed(columns, schema, rows: int | None = None) -> None:
    """Columns that the schema allows."""
    assert columns.keys() == schema.keys()
    assert {len(array) for array in columns.values()} == {rows or len(next(iter(columns.values())))}
    for name, array in columns.items():
        assert Column(array.dtype.name, array.shape[1:]) == schema[name], name
        assert array.dtype.kind != "f" or np.isfinite(array).all(), name
        assert array.dtype.kind != "b" or array.view(np.uint8).max() <= 1, name


def mutated(value: bytes, draw: random.Random) -> bytes:
    """The record with some of the things that happen to bytes."""
    data = bytearray(value)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                data[at : at + 4] = draw.randbytes(4)
            case 2:
                data[at : at + 8] = draw.choice([b"\xff" * 8, bytes(8), (1 << 40).to_bytes(8, "little")])
            case 3:
                del data[at : at + draw.randrange(1, 9)]
            case 4:
                data[at:at] = draw.randbytes(draw.randrange(1, 9))
    return bytes(data)


def refused(codec, value) -> bool:
    """Whether decoding is refused; anything else than a DecodeError is the test's failure."""
    try:
        columns = codec.decode(value)
    except DecodeError:
        return True
    assert_allowed(columns, codec.schema)
    return False
