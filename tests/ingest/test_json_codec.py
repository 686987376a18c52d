import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError
from fedmb.ingest.json_codec import JsonCodec

SCHEMA = {"x": Column("float32", (2, 2)), "y": Column("uint8"), "ok": Column("bool")}
CODEC = JsonCodec(SCHEMA)
GOOD = {"x": [[1, 2.5], [-0.0, 1e-3]], "y": 7, "ok": True}


def decode(**changes: object) -> dict[str, np.ndarray]:
    return CODEC.decode(json.dumps({**GOOD, **changes}).encode())


def test_a_row_becomes_columns_of_one_row():
    found = decode()

    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "x": ("float32", (1, 2, 2)),
        "y": ("uint8", (1,)),
        "ok": ("bool", (1,)),
    }
    np.testing.assert_array_equal(found["x"][0], np.array(GOOD["x"], np.float32))
    assert (found["y"][0], found["ok"][0]) == (7, True)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    st.integers(0, 255),
    st.booleans(),
)
def test_columns_come_back_bit_for_bit(x, y, ok):
    columns = {
        "x": np.array(x, np.float32).reshape(1, 2, 2),
        "y": np.array([y], np.uint8),
        "ok": np.array([ok]),
    }

    found = CODEC.decode(memoryview(CODEC.encode(columns)))

    assert all(found[name].tobytes() == columns[name].tobytes() for name in columns)


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.floats(-9, 9, width=32)), min_size=1, max_size=9))
def test_many_records_are_what_they_are_one_by_one(rows):
    y, ok, x = zip(*rows, strict=True)
    x = np.repeat(np.array(x, np.float32), 4).reshape(-1, 2, 2)
    columns = {"x": x, "y": np.array(y, np.uint8), "ok": np.array(ok)}

    values = CODEC.encode_rows(columns)
    found, singles = CODEC.decode_many(values), [CODEC.decode(value) for value in values]

    for name, column in columns.items():
        assert found[name].tobytes() == column.tobytes()
        assert np.concatenate([single[name] for single in singles]).tobytes() == column.tobytes()
        assert found[name].shape == column.shape


def test_one_bad_record_among_many_is_enough():
    good = json.dumps(GOOD).encode()

    for bad in (b"", good[:-1], good + b"," + good, json.dumps({**GOOD, "y": 256}).encode()):
        with pytest.raises(DecodeError):
            CODEC.decode_many([good, bad, good])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_whole_numbers_are_held_to_their_range(dtype):
    codec, limits = JsonCodec({"n": Column(dtype)}), np.iinfo(dtype)

    for number in (limits.min, limits.max):
        assert codec.decode(b'{"n": %d}' % number)["n"][0] == number
    for number in (limits.min - 1, limits.max + 1):
        with pytest.raises(DecodeError, match=f"from {limits.min} to {limits.max}, got {number}"):
            codec.decode(b'{"n": %d}' % number)


@pytest.mark.parametrize(
    "changes",
    [
        {"y": 300},
        {"y": -1},
        {"y": 1.5},
        {"y": 1.0},
        {"y": True},
        {"y": "7"},
        {"y": None},
        {"y": [7]},
        {"ok": 1},
        {"ok": "true"},
        {"x": [[1, 2], [3, True]]},
        {"x": [[1, 2], [3, None]]},
        {"x": [[1, 2], [3]]},
        {"x": [[1, 2], [3, 4], [5, 6]]},
        {"x": [1, 2, 3, 4]},
        {"x": [[1, 2], [3, [4]]]},
        {"x": [[1, 2], "34"]},
        {"x": [[1, 2], [3, 1e39]]},
        {"x": [[1, 2], [3, 10**400]]},
        {"x": [[1, 2], [3, float("nan")]]},
        {"x": [[1, 2], [3, float("inf")]]},
        {"x": {}},
        {"z": 1},
    ],
)
def test_a_row_that_breaks_the_schema_is_refused(changes):
    with pytest.raises(DecodeError):
        decode(**changes)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b"null",
        b'{"x": [[1,2],[3,4]], "y": 7}',
        b'{"x": [[1,2],[3,4]], "y": 7, "y": 8, "ok": true}',
        b'{"x": [[1,2],[3,1e999]], "y": 7, "ok": true}',
        b'{"x": [[1,2],[3,4]], "y": 7, "ok": true} {}',
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b"1" * 10_000,
        b"\xff\xfe\x00",
        b'"\\ud800"',
        b" " * (2 << 20),
    ],
)
def test_what_is_no_row_is_refused(value):
    with pytest.raises(DecodeError):
        CODEC.decode(value)


def test_mutations_raise_decode_errors_or_give_a_row_of_the_schema():
    value, draw, refused = json.dumps(GOOD).encode(), random.Random(4), 0
    pieces = [b"1", b"-", b"e9", b"NaN", b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"\xff", b"0.5"]

    for _ in range(10_000):
        data, at = bytearray(value), draw.randrange(len(value))
        for _ in range(draw.randrange(1, 4)):
            data[at : at + draw.randrange(3)] = draw.choice([*pieces, draw.randbytes(2)])
        try:
            found = CODEC.decode(bytes(data))
        except DecodeError:
            refused += 1
        else:
            assert {name: (a.dtype.name, a.shape[1:]) for name, a in found.items()} == SCHEMA
            assert np.isfinite(found["x"]).all()
    assert refused > 5000


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(value):
    with pytest.raises(DecodeError):
        CODEC.decode(value)


def test_what_decode_would_refuse_encode_refuses():
    row = CODEC.decode(json.dumps(GOOD).encode())

    with pytest.raises(ValueError, match="1 row, got 2"):
        CODEC.encode({name: np.concatenate([array, array]) for name, array in row.items()})
    with pytest.raises(ValueError, match="finite"):
        CODEC.encode({**row, "x": np.full_like(row["x"], np.inf)})
    with pytest.raises(ShapeError):
        CODEC.encode({**row, "y": row["y"].astype(np.int64)})
    with pytest.raises(ValueError, match="at most 10 bytes"):
        JsonCodec(SCHEMA, max_bytes=10).encode(row)
    with pytest.raises(SettingsError, match="max_bytes"):
        JsonCodec(SCHEMA, max_bytes=0)
