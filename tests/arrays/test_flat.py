import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.arrays import flat
from fedmb.arrays.bfloat16 import rounded
from fedmb.arrays.flat import DTYPES, FlatArrays, Layout
from fedmb.errors import FedmbError, ShapeError

MODEL = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": rounded(np.arange(3)),
    "h": np.ones(2, np.float16),
    "d": np.ones((2, 1)),
    "seen": np.array(7),
    "a": np.full(2, 9, np.float32),
}


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
LAYOUTS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), max_size=12)


@given(LAYOUTS, st.randoms(use_true_random=False))
def test_any_model_comes_back_from_its_buffers_whatever_the_order_of_its_names(entries, random):
    arrays = {name: np.frombuffer(random.randbytes(256 * 8), DTYPES[kind]) for name, (kind, _) in entries.items()}
    model = {name: arrays[name][: int(np.prod(shape))].reshape(shape) for name, (_, shape) in entries.items()}
    order = sorted(model)
    random.shuffle(order)
    packed = FlatArrays.packed({name: model[name] for name in order})
    again = FlatArrays(Layout.from_text(Layout(entries).text), packed.buffers)

    assert all(same(again[name], array) for name, array in model.items())
    assert again.keys() == model.keys()
    assert packed.layout == Layout.of(model)


def test_arrays_of_a_dtype_are_views_of_one_buffer():
    packed = FlatArrays.packed(MODEL)
    packed.buffers["float32"][:] = 5

    assert packed["w"].tolist() == [[5] * 3] * 2
    assert packed["a"].tolist() == [5, 5]
    assert FlatArrays.packed(packed) is packed


def test_what_is_averaged_is_float32_and_float64_and_goes_back():
    packed = FlatArrays.packed(MODEL)
    reals = packed.reals()
    moved = packed.replaced({group: vector + 1 for group, vector in reals.items()}, packed)

    assert {group: vector.shape for group, vector in reals.items()} == {"float64": (2,), "float32": (13,)}
    assert moved["w"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert same(moved["b"], rounded(np.arange(3) + 1))
    assert same(moved["h"], np.full(2, 2, np.float16))
    assert moved["seen"] == 7


def test_a_model_of_float32_is_averaged_without_a_copy():
    packed = FlatArrays.packed({"w": np.zeros(3, np.float32), "seen": np.array(1)})

    assert packed.reals()["float32"] is packed.buffers["float32"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b", "a\nb", "a\0b", "", "x" * 513, 7, None, "\ud800"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ShapeError):
        Layout.from_text(json.dumps([[name, "float32", [1]]], separators=(",", ":")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "[7]",
        "[[]]",
        '[["a","float32"]]',
        '[["a","float32",1]]',
        '[["a","float32",[-1]]]',
        '[["a","float32",[1.5]]]',
        '[["a","float32",[true]]]',
        '[["a","float32",[99999999999999999999]]]',
        '[["a","float32",[1048576,1048576,1048576]]]',
        '[["a","object",[1]]]',
        '[["a",["float32"],[1]]]',
        '[["a","float32",[1]],["a","float32",[1]]]',
        '[["b","float32",[1]],["a","float32",[1]]]',
        '[["a", "float32", [1]]]',
        "[" * 100_000,
        json.dumps([["a", "float32", [1] * 33]], separators=(",", ":")),
    ],
)
def test_a_text_that_is_no_layout_is_refused_before_anything_of_its_size_is_made(text):
    with pytest.raises(ShapeError) as refusal:
        Layout.from_text(text)
    assert len(str(refusal.value)) < 1000


def test_more_names_than_any_model_has_and_a_text_without_end_are_refused():
    many = json.dumps([["a", "float32", []]] * (flat.MAX_ARRAYS + 1), separators=(",", ":"))

    with pytest.raises(ShapeError, match="100000"):
        Layout.from_text(many)
    with pytest.raises(ShapeError, match="letters"):
        Layout.from_text("[" + " " * flat.MAX_TEXT)


@given(st.text(max_size=80))
def test_any_text_is_a_layout_or_refused(text):
    try:
        assert Layout.from_text(text).text == text
    except FedmbError:
        return


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"w": np.zeros(2, np.float32), "v": np.zeros(1)}, "unknown"),
        ({}, "missing"),
        ({"w": np.zeros((2, 1), np.float32)}, "shape"),
        ({"w": np.zeros(2)}, "dtype"),
    ],
)
def test_what_differs_between_two_layouts_is_said(other, said):
    layout = Layout.of({"w": np.zeros(2, np.float32)})

    with pytest.raises(ShapeError, match=said):
        layout.check(Layout.of(other))


@pytest.mark.parametrize(
    "buffers",
    [
        {},
        {"float32": np.zeros(3, np.float32)},
        {"float32": np.zeros((2, 1), np.float32)},
        {"float32": np.zeros(2)},
        {"float32": np.zeros(2, ">f4")},
        {"float32": np.zeros(2, np.float32), "int64": np.zeros(1, np.int64)},
    ],
)
def test_buffers_of_another_layout_are_refused(buffers):
    with pytest.raises(ShapeError):
        FlatArrays(Layout.of({"w": np.zeros(2, np.float32)}), buffers)


def test_an_array_that_no_model_has_is_refused():
    for array in (np.array([object()]), np.array(["text"]), np.zeros(1, np.complex64), np.zeros(1, [("x", "f4")])):
        with pytest.raises(ShapeError, match="must be of one of"):
            FlatArrays.packed({"w": array})
