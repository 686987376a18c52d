import json
import random

import numpy as np
import pytest
import safetensors.numpy
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError
from fedmb.ingest.packed_codec import MAGIC, MAX_PLANS, PackedCodec

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "float16",
    "uint32",
    "int32",
    "float32",
    "uint64",
    "int64",
    "float64",
]
SCHEMA = {"y": Column("uint8"), "x": Column("float32", (2, 3)), "w": Column("float64"), "ok": Column("bool", (2,))}
CODEC = PackedCodec(SCHEMA, max_rows=100, max_bytes=10_000, max_header_bytes=1000)


def columns(rows: int, seed: int = 0, schema=SCHEMA):
    draw = np.random.default_rng(seed)
    return {
        name: draw.integers(0, 2 if column.dtype == "bool" else 100, (rows, *column.shape)).astype(column.dtype)
        for name, column in schema.items()
    }


def assert_same(ones, others):
    assert ones.keys() == others.keys()
    for name in ones:
        assert ones[name].dtype == others[name].dtype
        np.testing.assert_array_equal(ones[name], others[name])


def sealed(header: object, data: bytes = b"") -> bytes:
    """A record with a right checksum around any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + data
    return MAGIC + crc32c(body).to_bytes(4, "little") + body


def opened(value: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(value[8:16], "little")
    return json.loads(value[16 : 16 + size]), value[16 + size :]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.builds(Column, st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=3).map(tuple)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_columns_come_back_bit_for_bit(schema, rows, seed):
    codec, given_columns = PackedCodec(schema), columns(rows, seed, schema)
    value = codec.encode(given_columns)

    for found in (codec.decode(value), codec.decode(memoryview(value)), codec.decode(value)):
        assert_same(found, given_columns)
    assert codec.encode(given_columns) == value


def test_any_safetensors_library_reads_a_record():
    given_columns = columns(7)

    assert_same(safetensors.numpy.load(CODEC.encode(given_columns)[8:]), given_columns)


def test_what_a_safetensors_library_writes_is_read():
    given_columns = columns(7)
    body = safetensors.numpy.save(given_columns, metadata={"site": "north"})

    assert_same(CODEC.decode(MAGIC + crc32c(body).to_bytes(4, "little") + body), given_columns)


def test_decoding_copies_nothing_and_cannot_be_written_to():
    value = CODEC.encode(columns(7))

    for array in CODEC.decode(value).values():
        assert np.shares_memory(array, np.frombuffer(value, np.uint8))
        assert not array.flags.writeable


def test_columns_start_at_multiples_of_their_width():
    header, _ = opened(CODEC.encode(columns(7)))

    for name, entry in header.items():
        assert entry["data_offsets"][0] % np.dtype(SCHEMA[name].dtype).itemsize == 0


def mutated(value: bytes, draw: random.Random) -> bytes:
    """One of the things that happen to bytes."""
    data, at = bytearray(value), draw.randrange(len(value))
    match draw.randrange(6):
        case 0:
            data[at] ^= 1 << draw.randrange(8)
        case 1:
            data[at : at + draw.randrange(1, 40)] = draw.randbytes(draw.randrange(40))
        case 2:
            del data[at:]
        case 3:
            del data[at : at + draw.randrange(1, 9)]
        case 4:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        case _:
            start = draw.randrange(len(value))
            data[at : at + 16] = data[start : start + 16]
    return bytes(data)


def test_no_mutation_of_ten_thousand_is_accepted_or_escapes():
    values, draw, unchanged = [CODEC.encode(columns(rows)) for rows in (1, 3, 20)], random.Random(20), 0

    for number in range(10_000):
        value = values[number % 3]
        changed = mutated(value, draw)
        if changed == value:
            unchanged += 1
            continue
        with pytest.raises(DecodeError):
            CODEC.decode(changed)
    assert unchanged < 1000


def test_mutations_under_a_right_checksum_raise_decode_errors_or_follow_the_schema():
    value, draw, refused = CODEC.encode(columns(3)), random.Random(21), 0

    for _ in range(10_000):
        body = mutated(value[8:], draw)
        try:
            found = CODEC.decode(MAGIC + crc32c(body).to_bytes(4, "little") + body)
        except DecodeError:
            refused += 1
        else:
            assert {name: (a.dtype.name, a.shape[1:]) for name, a in found.items()} == SCHEMA
            assert all(np.isfinite(array).all() for array in found.values())
    assert refused > 5000


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(value):
    for data in (value, MAGIC + value, sealed(value)):
        with pytest.raises(DecodeError):
            CODEC.decode(data)


def changed(change) -> bytes:
    header, data = opened(CODEC.encode(columns(2)))
    return sealed(change(header) or header, data)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("x") and None,
        lambda h: h.update(z=h["x"]),
        lambda h: h["x"].update(dtype="F64"),
        lambda h: h["x"].update(shape=[2, 3, 2]),
        lambda h: h["x"].update(shape=[3, 2, 3]),
        lambda h: h["x"].update(shape=[2.0, 2, 3]),
        lambda h: h["y"].update(shape=[True]),
        lambda h: h["w"].update(shape=[True]),
        lambda h: h["w"].update(shape=[]),
        lambda h: h["w"].update(shape=[0]),
        lambda h: h["w"].update(shape=[10**30]),
        lambda h: h["w"].update(shape=2),
        lambda h: h["w"].update(data_offsets=[8, 24]),
        lambda h: h["w"].update(data_offsets=[-8, 8]),
        lambda h: h["w"].update(data_offsets=[0, 16, 32]),
        lambda h: h["w"].update(data_offsets=[0.0, 16.0]),
        lambda h: h["x"].update(data_offsets=[0, 48]),
        lambda h: h["w"].update(extra=1),
        lambda h: [h],
        lambda h: {name: [] for name in h},
        lambda h: b'{"x":1,"x":2}',
        lambda h: b"[" * 900,
        lambda h: b"1" * 900,
        lambda h: b"\xff\xfe",
    ],
)
def test_a_header_that_lies_is_refused(change):
    with pytest.raises(DecodeError):
        CODEC.decode(changed(change))


def test_bytes_before_or_behind_the_columns_are_refused():
    header, data = opened(CODEC.encode(columns(2)))

    for other in (data + b"\0", data[:-1], b""):
        with pytest.raises(DecodeError, match="fill"):
            CODEC.decode(sealed(header, other))


def test_numbers_whose_squares_are_too_large_for_their_dtype_are_read():
    codec = PackedCodec({"x": Column("float32", (3,)), "y": Column("float64")})
    columns = {"x": np.full((2, 3), -3e38, np.float32), "y": np.full(2, 1e308)}

    found = codec.decode(codec.encode(columns))

    assert all(np.array_equal(found[name], columns[name]) for name in columns)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_both_ways(number):
    bad, good = columns(4), columns(4)
    bad["x"][1, 0, 2] = number
    header, data = opened(CODEC.encode(good))
    start, stop = header["x"]["data_offsets"]

    with pytest.raises(ValueError, match="finite"):
        CODEC.encode(bad)
    with pytest.raises(DecodeError, match="finite"):
        CODEC.decode(sealed(header, data[:start] + bad["x"].tobytes() + data[stop:]))


def test_a_bool_is_one_bit():
    header, data = opened(CODEC.encode(columns(4)))
    start, _ = header["ok"]["data_offsets"]

    with pytest.raises(DecodeError, match="byte 0 or 1"):
        CODEC.decode(sealed(header, data[:start] + b"\x02" + data[start + 1 :]))


def test_what_decode_would_refuse_encode_refuses():
    with pytest.raises(ValueError, match="1 to 100 rows, got 0"):
        CODEC.encode(columns(0))
    with pytest.raises(ValueError, match="got 101"):
        CODEC.encode(columns(101))
    with pytest.raises(ValueError, match="max_bytes"):
        PackedCodec(SCHEMA, max_bytes=1000).encode(columns(50))
    with pytest.raises(ValueError, match="header"):
        PackedCodec(SCHEMA, max_header_bytes=100).encode(columns(1))
    with pytest.raises(ShapeError):
        CODEC.encode({**columns(2), "z": np.zeros(2)})
    with pytest.raises(DecodeError, match="bytes"):
        PackedCodec(SCHEMA, max_bytes=1000).decode(CODEC.encode(columns(50)))
    with pytest.raises(DecodeError, match="header"):
        PackedCodec(SCHEMA, max_header_bytes=100).decode(CODEC.encode(columns(1)))


def test_numbers_of_the_other_byte_order_are_turned():
    given_columns = columns(3)
    turned = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in given_columns.items()}

    assert CODEC.encode(turned) == CODEC.encode(given_columns)


def test_headers_remembered_are_bounded():
    codec = PackedCodec({"x": Column("uint8")})
    for rows in range(1, 3 * MAX_PLANS):
        codec.decode(codec.encode({"x": np.zeros(rows, np.uint8)}))

    assert len(codec._plans) <= MAX_PLANS


def test_bounds_are_positive():
    with pytest.raises(SettingsError, match="max_rows"):
        PackedCodec(SCHEMA, max_rows=0)
