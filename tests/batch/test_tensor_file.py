"""A safetensors header is trusted only as far as its file goes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from fedmb.batch.tensor_file import DTYPES, tensor_headers
from fedmb.errors import DecodeError


def written(path, header, content=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_headers_say_where_the_library_wrote_each_tensor(tmp_path, dtype):
    array = np.arange(6).reshape(3, 2).astype(dtype)
    safetensors.numpy.save_file({"a": array, "b": array[:1]}, tmp_path / "t.safetensors")
    content = (tmp_path / "t.safetensors").read_bytes()

    header = tensor_headers(tmp_path / "t.safetensors")["a"]

    found = np.frombuffer(content, header.dtype, count=6, offset=header.offset).reshape(header.shape)
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}, "must lie in its file"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}, "must lie in its file"),
        ({"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]}, "must lie in its file"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "must lie in its file"),
        ({"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}, "must have a NumPy dtype"),
        ({"dtype": "F32", "shape": 3, "data_offsets": [0, 16]}, "readable"),
        ({"shape": [4]}, "readable"),
        ("F32", "readable"),
    ],
)
def test_entries_that_promise_what_is_not_there_are_refused(tmp_path, entry, message):
    with pytest.raises(DecodeError, match=message):
        tensor_headers(written(tmp_path / "t.safetensors", {"a": entry}))


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_headers_that_are_no_object_are_refused(tmp_path, header):
    with pytest.raises(DecodeError):
        tensor_headers(written(tmp_path / "t.safetensors", header))


def test_a_length_beyond_the_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "t.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")

    with pytest.raises(DecodeError, match="header must fit its file"):
        tensor_headers(tmp_path / "t.safetensors")
