import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import ZERO, models, rows, stacked

from fedmb.aggregation.rule import Mean
from fedmb.arrays.bfloat16 import BFLOAT16, rounded, widened
from fedmb.errors import NotEnoughData
from fedmb.update import Update


def averaged(arrays, weights):
    return Mean().combine(stacked(arrays, weights), ZERO)


def test_mean_is_weighted():
    arrays, weights = models(5), [1.0, 2.0, 0.0, 4.0, 3.0]

    expected = sum(w * one["w"].astype(np.float64) for one, w in zip(arrays, weights, strict=True)) / 10
    assert np.array_equal(averaged(arrays, weights)["w"], expected.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.data())
def test_any_grouping_of_updates_gives_the_same_mean(count, seed, data):
    arrays = models(count, seed, np.float64)
    weights = [float(w) for w in np.random.default_rng(seed).integers(1, 100, count)]
    updates = [
        Update(one, weight, 3, {f"c{k}": {}}) for k, (one, weight) in enumerate(zip(arrays, weights, strict=True))
    ]
    cut = data.draw(st.integers(1, count - 1))
    left, right = updates[:cut], updates[cut:]
    grouped = sum(left[1:], left[0]) + sum(right[1:], right[0])

    assert grouped.weight == sum(weights)
    assert np.allclose(grouped.arrays["w"], averaged(arrays, weights)["w"], rtol=1e-12, atol=1e-12)


def test_two_updates_added_are_their_mean_bit_for_bit():
    one, other = models(2)
    added = Update(one, 3.0, 0, {"a": {}}) + Update(other, 4.0, 0, {"b": {}})

    mean = averaged([one, other], [3.0, 4.0])
    assert all(np.array_equal(added.arrays[name], mean[name]) for name in mean)


def test_integer_buffers_come_from_the_heaviest_model_and_keep_their_dtype():
    counters = [{"seen": np.array(7, np.int64)}, {"seen": np.array(11, np.int64)}, {"seen": np.array(9, np.int64)}]
    mean = averaged(counters, [1.0, 3.0, 2.0])

    assert mean["seen"] == 11
    assert mean["seen"].dtype == np.int64


def test_the_first_by_name_gives_its_integers_on_a_tie():
    assert averaged([{"seen": np.array([k == 1, True])} for k in range(3)], [1.0, 2.0, 2.0])["seen"].tolist() == [1, 1]
    assert averaged([{"seen": np.array(7)}] * 3, [1.0, 1.0, 1.0])["seen"] == 7


def test_float16_is_summed_in_float64():
    arrays = [{"w": np.full(10, 0.1, np.float16)}] * 1000
    mean = averaged(arrays, [1.0] * 1000)

    assert mean["w"].dtype == np.float16
    assert np.array_equal(mean["w"], arrays[0]["w"])


def test_bfloat16_is_summed_in_float64_and_rounded_back():
    random = np.random.default_rng(2)
    arrays = [{"w": rounded(random.standard_normal(40_001)), "b": np.ones(3, np.float32)} for _ in range(3)]
    mean, filed = averaged(arrays, [1.0, 2.0, 4.0]), Mean().combine(stacked(arrays, [1, 2, 4], memory_bytes=0), {})

    expected = sum(w * widened(one["w"]).astype(np.float64) for one, w in zip(arrays, [1, 2, 4], strict=True)) / 7
    assert mean["w"].dtype == filed["w"].dtype == BFLOAT16
    assert np.array_equal(mean["w"], rounded(expected))
    assert np.array_equal(mean["w"], filed["w"])


def test_arrays_of_several_dtypes_and_larger_than_a_block_are_averaged_whole():
    random = np.random.default_rng(1)
    names = {"a": np.float64, "b": np.float16, "c": np.float32, "d": np.float64}
    one, other = ({name: random.standard_normal(50_003).astype(kind) for name, kind in names.items()} for _ in "ab")
    mean = averaged([one, other], [3.0, 1.0])

    for name, kind in names.items():
        expected = (one[name].astype(np.float64) * 3 + other[name]) / 4
        assert np.array_equal(mean[name], expected.astype(kind))


def test_added_arrays_are_left_as_they_were():
    arrays = models(2)
    copies = [{name: array.copy() for name, array in one.items()} for one in arrays]
    averaged(arrays, [1.0, 2.0])

    assert all(np.array_equal(one[name], copy[name]) for one, copy in zip(arrays, copies, strict=True) for name in one)


def test_a_mean_has_the_models_own_order_of_names_and_shapes():
    arrays = [{"z": np.ones((2, 0)), "a": np.float32([[1, 2]]), "m": np.array(1.5)}] * 2
    mean = averaged(arrays, [1.0, 1.0])

    assert list(mean) == ["z", "a", "m"]
    assert [mean[name].shape for name in mean] == [(2, 0), (1, 2), ()]
    assert mean["m"] == 1.5


def test_arrays_that_lie_otherwise_in_memory_are_averaged_by_their_elements():
    turned = np.arange(6.0).reshape(2, 3).T
    mean = averaged([{"w": turned}, {"w": np.ascontiguousarray(turned)}], [1.0, 3.0])

    assert np.array_equal(mean["w"], turned)


def test_a_mean_of_nothing_says_what_to_do():
    with pytest.raises(NotEnoughData, match="keep the previous model"):
        averaged([{"w": np.zeros(2)}], [0.0])


def test_a_client_of_weight_zero_changes_nothing():
    arrays = models(3)

    assert np.array_equal(rows([averaged(arrays, [1, 0, 2])]), rows([averaged([arrays[0], arrays[2]], [1, 2])]))
