import io

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.federation.array_block import from_block, to_block

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(7),
    np.array([True, False]),
    np.zeros((0, 3), np.float16),
    np.arange(3, dtype=np.uint8),
    np.arange(4, dtype=">i4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((1,) * 32, np.int8),
]
NAMES = [f"{array.dtype.str}-{array.ndim}d" for array in ARRAYS]


def block(data, stype="numpy.ndarray"):
    return Array("float32", (1,), stype, data)


def npy(array, version):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize("array", ARRAYS, ids=NAMES)
def test_flower_reads_ours_and_we_read_flowers(array):
    ours = to_block([array], array.shape)

    assert (ours.dtype, ours.shape) == (str(array.dtype), array.shape)
    assert np.array_equal(ours.numpy(), array)
    assert np.array_equal(from_block("x", Array(array)), array)
    assert np.array_equal(from_block("x", ours), array)
    assert array.flags.f_contiguous > array.flags.c_contiguous or ours == Array(array)  # byte for byte


def test_parts_are_joined():
    joined = to_block([np.arange(3), np.arange(4).reshape(2, 2)], (7,))

    assert joined.numpy().tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_reading_is_a_view_that_nobody_can_write():
    view = from_block("x", Array(np.arange(4.0)))

    assert not view.flags.owndata
    assert not view.flags.writeable


def test_both_versions_of_the_format_that_numpy_writes_for_plain_numbers_are_read():
    for version in ((1, 0), (2, 0)):
        assert from_block("x", block(npy(np.arange(3.0), version))).tolist() == [0, 1, 2]
    with pytest.raises(ShapeError):
        from_block("x", block(npy(np.arange(3.0), (3, 0))))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('x', '<f8')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': 1, 'shape': (1,), }",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<b1', 'fortran_order': False, 'shape': (8,), }",
        "{'descr': '<f1', 'fortran_order': False, 'shape': (8,), }",
        "{'shape': (1,), 'descr': '<f8', 'fortran_order': False}",
        "__import__('os').getpid()",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1, " * 33 + "), }",
        " " * 5000,
    ],
)
def test_a_header_of_anything_else_is_refused(header):
    text = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)

    with pytest.raises(ShapeError, match="readable npy"):
        from_block("x", block(data))


def test_a_block_of_another_kind_is_refused():
    whole = Array(np.arange(3.0)).data

    for broken in (b"", whole[:5], whole[:-1], whole + b"x", b"PK" + whole[2:]):
        with pytest.raises(ShapeError, match="readable npy"):
            from_block("x", block(broken))
    with pytest.raises(ShapeError, match="readable npy"):
        from_block("x", block(whole, stype="pickle"))


@given(st.binary(max_size=8), st.integers(0, 140), st.integers(0, 8))
def test_any_bytes_are_refused_or_read_and_nothing_large_is_made(data, place, cut):
    whole = Array(np.arange(3.0)).data
    changed = whole[:place] + data + whole[place + cut :]
    try:
        view = from_block("x", block(changed))
    except ShapeError:
        return

    assert view.nbytes <= len(changed)
