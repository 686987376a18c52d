import random
import struct

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError
from fedmb.ingest.codec import DTYPES
from fedmb.ingest.sample_codec import SampleCodec

SCHEMA = {"y": Column("uint8"), "x": Column("float32", (2, 3)), "ok": Column("bool", (2,))}
CODEC, BARE = SampleCodec(SCHEMA), SampleCodec(SCHEMA, checksum=False)
BOTH = pytest.mark.parametrize("codec", [CODEC, BARE], ids=["checksum", "bare"])


def columns(rows: int, seed: int = 0, schema=SCHEMA):
    draw = np.random.default_rng(seed)
    return {
        name: draw.integers(0, 2 if column.dtype == "bool" else 100, (rows, *column.shape)).astype(column.dtype)
        for name, column in schema.items()
    }


def assert_same(ones, others):
    assert ones.keys() == others.keys()
    for name in ones:
        assert (ones[name].dtype, ones[name].shape) == (others[name].dtype, others[name].shape)
        assert ones[name].tobytes() == others[name].tobytes()


def test_the_layout_is_what_a_struct_writes():
    row = struct.pack("<BBffffffB", 1, 0, 1, 2, 3, 4, 5, 6.5, 7)

    found = CODEC.decode(row + struct.pack("<I", crc32c(row)))

    assert_same(found, BARE.decode(row))
    assert found["ok"].tolist() == [[True, False]]
    assert found["x"].tolist() == [[[1, 2, 3], [4, 5, 6.5]]]
    assert found["y"].tolist() == [7]


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.builds(Column, st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=3).map(tuple)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 20),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_columns_come_back_bit_for_bit(schema, rows, seed, checksum):
    codec, given_columns = SampleCodec(schema, checksum=checksum), columns(rows, seed, schema)

    values = codec.encode_rows(given_columns)

    assert_same(codec.decode_many(values), given_columns)
    assert_same(codec.decode_many([memoryview(value) for value in values]), given_columns)
    for row, value in enumerate(values):
        single = {name: column[row : row + 1] for name, column in given_columns.items()}
        assert len(value) == codec.record_bytes
        assert codec.encode(single) == value
        assert_same(codec.decode(memoryview(value)), single)


@BOTH
def test_many_rows_are_contiguous_and_independent_of_the_records(codec):
    values = [bytearray(value) for value in codec.encode_rows(columns(5))]

    found = codec.decode_many(values)
    for value in values:
        value[:] = bytes(len(value))

    assert_same(found, columns(5))
    assert all(array.flags.c_contiguous and array.flags.aligned for array in found.values())


def refused(decode, value) -> bool:
    try:
        decode(value)
    except DecodeError:
        return True
    return False


def mutated(value: bytes, draw: random.Random) -> bytes:
    data, at = bytearray(value), draw.randrange(len(value))
    match draw.randrange(4):
        case 0:
            data[at] ^= 1 << draw.randrange(8)
        case 1:
            data[at : at + draw.randrange(1, 8)] = draw.randbytes(draw.randrange(8))
        case 2:
            del data[at:]
        case 3:
            data[at:at] = draw.randbytes(draw.randrange(1, 40))
    return bytes(data)


def test_a_mutated_record_is_detected_alone_and_among_others():
    draw, good, met = random.Random(5), CODEC.encode_rows(columns(4)), 0

    while met < 10_000:
        value = mutated(good[0], draw)
        if value == good[0]:
            continue
        met += 1
        many = [*good[1:], value]
        draw.shuffle(many)
        assert refused(CODEC.decode, value)
        assert refused(CODEC.decode_many, many)


def test_two_mutated_records_are_detected_together():
    draw, good = random.Random(6), CODEC.encode_rows(columns(6))

    for _ in range(2000):
        first, second = draw.randbytes(len(good[0])), mutated(good[1], draw)
        assert refused(CODEC.decode_many, [first, *good[2:], second])
        assert refused(CODEC.decode_many, [first, first, *good[2:]])  # alike, an even number of times


def test_without_a_checksum_what_passes_is_what_encode_writes():
    draw, good, passed = random.Random(7), BARE.encode_rows(columns(1))[0], 0

    for _ in range(5000):
        value = mutated(good, draw)
        if not refused(BARE.decode, value):
            passed += 1
            assert BARE.encode(BARE.decode(value)) == value
    assert passed > 500, "the layout without a checksum shows no flipped number, as its docstring says"


@BOTH
def test_lengths_that_add_up_are_no_records(codec):
    one, two, three = codec.encode_rows(columns(3))

    for many in ([one + two, b"", three], [one[:-1], one[-1:] + two, three], [one, two + b"\0", three[1:]], []):
        assert refused(codec.decode_many, many)


@BOTH
@given(value=st.binary(max_size=60))
def test_random_bytes_are_refused_unless_they_are_a_row(codec, value):
    if not refused(codec.decode, value):
        assert codec is BARE
        assert codec.encode(codec.decode(value)) == value


@pytest.mark.parametrize("codec", [SampleCodec, lambda schema: SampleCodec(schema, checksum=False)])
def test_numbers_that_are_none_are_refused(codec):
    codec = codec({"ok": Column("bool"), "x": Column("float64")})
    bad = [struct.pack("<Bd", *pair) for pair in ((2, 1.0), (0, float("nan")), (1, float("-inf")))]
    sealed = [row + (crc32c(row).to_bytes(4, "little") if codec.record_bytes == 13 else b"") for row in bad]

    for value in sealed:
        assert refused(codec.decode, value)
        assert refused(codec.decode_many, [value, value])


def test_a_producer_with_another_choice_of_checksum_is_told_apart():
    with pytest.raises(DecodeError, match="no checksum"):
        CODEC.decode(BARE.encode(columns(1)))
    with pytest.raises(DecodeError, match="a checksum"):
        BARE.decode(CODEC.encode(columns(1)))


def test_what_cannot_be_a_record_is_no_record():
    row = columns(1)

    with pytest.raises(ValueError, match="1 row, got 2"):
        CODEC.encode(columns(2))
    with pytest.raises(ValueError, match="finite"):
        CODEC.encode_rows({**row, "x": np.full_like(row["x"], np.nan)})
    with pytest.raises(ShapeError):
        CODEC.encode({**row, "y": row["y"].astype(np.int64)})
    with pytest.raises(SettingsError, match="max_bytes"):
        SampleCodec(SCHEMA, max_bytes=CODEC.record_bytes - 1)
    assert CODEC.encode_rows(columns(0)) == []
