import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.federation.npy_view import packed, viewed


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool", ">f4"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)], ids=str)
def test_arrays_are_seen_as_they_were_sent(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    seen = viewed(ArrayRecord({"w": Array(array)}))["w"]

    assert np.array_equal(seen, array)
    assert seen.dtype == array.dtype


def test_an_array_that_lies_by_columns_is_seen_by_its_elements():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))

    assert np.array_equal(viewed(ArrayRecord({"w": Array(array)}))["w"], array)


def test_nothing_is_copied_and_nothing_can_be_written():
    record = ArrayRecord({"w": Array(np.ones(1000))})
    seen = viewed(record)["w"]

    assert np.shares_memory(seen, np.frombuffer(record["w"].data, np.uint8))
    assert not seen.flags.writeable


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_that_are_no_array_are_refused(data):
    array = Array(np.arange(12.0).reshape(3, 4))
    text = bytearray(array.data)
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    array.data = bytes(text[: data.draw(st.integers(0, len(text)))])

    try:
        seen = viewed(ArrayRecord({"w": array}))["w"]
    except ShapeError:
        return
    assert seen.dtype.kind in "biuf"


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '<f4')]", "'<U3'", "'<c8'"])
def test_only_numbers_are_seen(descr):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode().ljust(117) + b"\n"
    array = Array(np.zeros(1))
    array.data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)

    with pytest.raises(ShapeError, match="readable npy block, got: its"):
        viewed(ArrayRecord({"w": array}))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)], ids=str)
def test_a_record_is_packed_byte_for_byte_as_flower_packs_it(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)

    for one in (array, array.T):
        ours, theirs = packed({"w": one})["w"], Array(one)
        assert (ours.data, ours.dtype, ours.shape, ours.stype) == (
            theirs.data,
            theirs.dtype,
            theirs.shape,
            theirs.stype,
        )
