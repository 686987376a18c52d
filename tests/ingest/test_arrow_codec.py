import random
import resource
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EVERY, assert_same, mutated, refused, rows_of

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError
from fedmb.ingest.arrow_codec import ArrowCodec
from fedmb.ingest.codec import DTYPES, Codec, RowCodec

SCHEMA = {"x": Column("float32", (2, 3)), "ok": Column("bool", (2,)), "h": Column("float16"), "n": Column("uint64")}
CODEC = ArrowCodec(SCHEMA)
GOOD = rows_of(SCHEMA, 5)


def stream(*batches, schema=None, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


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
)
def test_columns_come_back_bit_for_bit(schema, rows, seed):
    codec, columns = ArrowCodec(schema), rows_of(schema, rows, seed)

    value = codec.encode(columns)

    assert_same(codec.decode(value), columns)
    assert_same(codec.decode(memoryview(value)), columns)
    assert codec.encode(columns) == value


def test_every_dtype_comes_back():
    codec = ArrowCodec(EVERY)

    assert_same(codec.decode(codec.encode(rows_of(EVERY, 9))), rows_of(EVERY, 9))
    assert isinstance(codec, Codec)
    assert not isinstance(codec, RowCodec)


def test_any_arrow_library_reads_a_record():
    table = pa.ipc.open_stream(CODEC.encode(GOOD)).read_all()

    assert table["x"].to_pylist() == GOOD["x"].tolist()
    assert table["ok"].to_pylist() == GOOD["ok"].tolist()


def test_what_an_arrow_library_writes_is_read_in_any_order_and_several_batches():
    def batch(start, stop):
        lists = pa.list_(pa.list_(pa.float32(), 3), 2)
        return pa.record_batch(
            {
                "n": pa.array(GOOD["n"][start:stop]),
                "x": pa.array(GOOD["x"][start:stop].tolist(), lists),
                "h": pa.array(GOOD["h"][start:stop]),
                "ok": pa.array(GOOD["ok"][start:stop].tolist(), pa.list_(pa.bool_(), 2)),
            }
        ).replace_schema_metadata({"site": "north"})

    assert_same(CODEC.decode(stream(batch(0, 5))), GOOD)
    assert_same(CODEC.decode(stream(batch(0, 1), batch(1, 4), batch(4, 5))), GOOD)


def test_numbers_are_views_of_the_record():
    value = CODEC.encode(GOOD)

    found = CODEC.decode(value)

    for name in ("x", "h", "n"):
        assert np.shares_memory(found[name], np.frombuffer(value, np.uint8))
        assert not found[name].flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, 2.0], pa.float64()),
        pa.array([1, 2], pa.int32()),
        pa.array(["1", "2"]),
        pa.array([1.0, None], pa.float32()),
        pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1)),
        pa.array([1.0, 1.0], pa.float32()).dictionary_encode(),
        pa.array([1.0, float("nan")], pa.float32()),
        pa.array([1.0, float("inf")], pa.float32()),
        pa.array([], pa.float32()),
        pa.nulls(2),
    ],
    ids=str,
)
def test_another_column_is_refused(array):
    codec = ArrowCodec({"y": Column("float32")})

    assert not refused(codec, stream(pa.record_batch({"y": pa.array([1.0, 2.0], pa.float32())})))
    assert refused(codec, stream(pa.record_batch({"y": array})))


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        pa.array([[1.0, 2.0], [None, 1.0]], pa.list_(pa.float32(), 2)),
        pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3)),
        pa.array([[1.0, 2.0]], pa.list_(pa.float32())),
        pa.array([[[1.0, 2.0]]], pa.list_(pa.list_(pa.float32(), 2), 1)),
        pa.array([1.0, 2.0], pa.float32()),
    ],
    ids=str,
)
def test_other_lists_are_refused(array):
    codec = ArrowCodec({"y": Column("float32", (2,))})

    assert not refused(codec, stream(pa.record_batch({"y": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})))
    assert refused(codec, stream(pa.record_batch({"y": array})))


def test_other_streams_are_refused():
    codec, y = ArrowCodec({"y": Column("int8")}, max_rows=3), pa.array([1, 2], pa.int8())
    good = stream(pa.record_batch({"y": y}))

    assert not refused(codec, good)
    assert refused(codec, stream(pa.record_batch({"y": y, "z": y})))
    assert refused(codec, stream(pa.record_batch([y, y], names=["y", "y"])))
    assert refused(codec, stream(pa.record_batch({"z": y})))
    assert refused(codec, stream(schema=pa.schema([("y", pa.int8())])))
    assert refused(codec, stream(pa.record_batch({"y": y}), pa.record_batch({"y": y})))
    assert refused(codec, good + good)
    assert refused(codec, good[:-8])
    assert all(refused(codec, good[:end]) for end in range(len(good)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("y", pa.int8())])) as file:
        file.write_batch(pa.record_batch({"y": y}))
    assert refused(codec, sink.getvalue().to_pybytes())


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_bomb_is_refused_before_it_unpacks(compression):
    codec, rows = ArrowCodec({"y": Column("float64", (1 << 20,))}), 32
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows << 20)), 1 << 20)
    bomb = stream(pa.record_batch({"y": zeros}), compression=compression)
    del zeros

    assert len(bomb) < 2 << 20, "what would unpack to 256 MiB"
    with pytest.raises(DecodeError, match="compression"):
        codec.decode(bomb)


def test_mutations_raise_decode_errors_or_give_rows_of_the_schema():
    draw, value, count = random.Random(8), CODEC.encode(GOOD), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(10_000):
        count += refused(CODEC, mutated(value, draw))

    assert count > 8000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (64 << 10), f"{grown} KiB more for records of {len(value)} bytes"


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(value):
    assert refused(CODEC, value)
    assert refused(CODEC, value + b"\xff\xff\xff\xff\0\0\0\0")


def test_what_decode_would_refuse_encode_refuses():
    codec = ArrowCodec(SCHEMA, max_rows=5)

    with pytest.raises(ValueError, match="1 to 5 rows, got 6"):
        codec.encode(rows_of(SCHEMA, 6))
    with pytest.raises(ValueError, match="1 to 5 rows, got 0"):
        codec.encode(rows_of(SCHEMA, 0))
    with pytest.raises(ValueError, match="finite"):
        codec.encode({**GOOD, "h": np.full_like(GOOD["h"], np.nan)})
    with pytest.raises(ShapeError):
        codec.encode({**GOOD, "n": GOOD["n"].astype(np.int64)})
    with pytest.raises(ValueError, match="at most 100 bytes"):
        ArrowCodec(SCHEMA, max_bytes=100).encode(GOOD)
    assert refused(ArrowCodec(SCHEMA, max_bytes=100), codec.encode(GOOD))


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(SettingsError, match=r"fedmb\[arrow\]"):
        ArrowCodec(SCHEMA)
