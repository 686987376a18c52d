import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.arrays.bfloat16 import rounded
from fedmb.arrays.tensor_bytes import from_bytes, to_bytes
from fedmb.errors import ShapeError

MODEL = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": rounded(np.arange(3)),
    "h": np.ones(2, np.float16),
    "seen": np.array(7),
    "mask": np.array([True]),
    "u": np.arange(3, dtype=np.uint8),
    "e": np.zeros((0, 2)),
}


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_model_makes_the_round_trip_with_its_metadata(checksum):
    data = to_bytes(MODEL, {"about": "x"}, checksum=checksum)
    back, metadata = from_bytes(data)

    assert all(same(back[name], array) for name, array in MODEL.items())
    assert metadata["about"] == "x"
    assert data == to_bytes(dict(reversed(MODEL.items())), {"about": "x"}, checksum=checksum)


def test_any_safetensors_library_reads_it_and_is_read():
    data = to_bytes(MODEL, checksum=True)
    theirs = safetensors.torch.load(data)
    plain = {name: array for name, array in MODEL.items() if name != "b"}
    back, _ = from_bytes(safetensors.numpy.save(plain, {"about": "x"}))

    assert theirs["b"].dtype == torch.bfloat16
    assert theirs["b"].tolist() == [0, 1, 2]
    assert torch.equal(theirs["w"], torch.from_numpy(MODEL["w"]))
    assert all(same(back[name], array) for name, array in plain.items())


def test_reading_copies_nothing():
    back, _ = from_bytes(to_bytes(MODEL))

    assert not back["w"].flags.owndata
    assert not back["w"].flags.writeable


def test_a_changed_bit_anywhere_in_the_arrays_is_told():
    data = bytearray(to_bytes(MODEL, checksum=True))
    start = 8 + int.from_bytes(data[:8], "little")
    for place in range(start, len(data)):
        data[place] ^= 1
        with pytest.raises(ShapeError, match="CRC-32C"):
            from_bytes(bytes(data))
        data[place] ^= 1


def test_a_file_cut_anywhere_is_refused():
    data = to_bytes(MODEL, checksum=True)
    for end in range(len(data)):
        with pytest.raises(ShapeError):
            from_bytes(data[:end])


@settings(max_examples=300)
@given(st.data())
def test_a_header_of_any_bytes_is_refused_or_read(data):
    whole = to_bytes(MODEL)
    place = data.draw(st.integers(0, 300))
    changed = whole[:place] + data.draw(st.binary(max_size=8)) + whole[place + data.draw(st.integers(0, 8)) :]
    try:
        arrays, _ = from_bytes(changed)
    except ShapeError:
        return

    assert sum(array.nbytes for array in arrays.values()) <= len(changed)


@pytest.mark.parametrize(
    "header",
    [
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        '{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,-8]}}',
        '{"w":{"dtype":"O","shape":[1],"data_offsets":[0,8]}}',
        '{"w":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}',
        '{"w":7}',
        "[]",
        "[" * 20_000,
        '{"__metadata__":[]}',
    ],
)
def test_a_header_that_lies_is_refused(header):
    text = header.encode()

    with pytest.raises(ShapeError):
        from_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
