import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.aggregation.average import RunningAverage
from fedmb.errors import NotEnoughData, ShapeError
from fedmb.update import Update


def models(count, seed=0, size=7):
    random = np.random.default_rng(seed)
    return [{"w": random.standard_normal((size, 3)).astype(np.float32), "n": np.array(k)} for k in range(count)]


def averaged(arrays, weights):
    average = RunningAverage()
    for one, weight in zip(arrays, weights, strict=True):
        average.add(one, weight)
    return average.result()


def test_mean_is_weighted():
    arrays, weights = models(5), [1.0, 2.0, 0.0, 4.0, 3.0]

    expected = sum(w * one["w"].astype(np.float64) for one, w in zip(arrays, weights, strict=True)) / 10
    assert np.array_equal(averaged(arrays, weights)["w"], expected.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.data())
def test_any_grouping_of_updates_gives_the_same_mean(count, seed, data):
    arrays = models(count, seed)
    weights = [float(w) for w in np.random.default_rng(seed).integers(1, 100, count)]
    updates = [
        Update({"w": one["w"].astype(np.float64)}, weight, 3, {f"c{k}": {}})
        for k, (one, weight) in enumerate(zip(arrays, weights, strict=True))
    ]
    cut = data.draw(st.integers(1, count - 1))
    left, right = updates[:cut], updates[cut:]
    grouped = sum(left[1:], left[0]) + sum(right[1:], right[0])

    running = averaged([update.arrays for update in updates], weights)
    assert grouped.weight == sum(weights)
    assert np.allclose(grouped.arrays["w"], running["w"], rtol=1e-12, atol=1e-12)


def test_integer_buffers_come_from_the_heaviest_model_and_keep_their_dtype():
    counters = [{"seen": np.array(7, np.int64)}, {"seen": np.array(11, np.int64)}, {"seen": np.array(9, np.int64)}]
    mean = averaged(counters, [1.0, 3.0, 2.0])

    assert mean["seen"] == 11
    assert mean["seen"].dtype == np.int64


def test_three_equal_counters_stay_what_they_are():
    assert averaged([{"seen": np.array(7)}] * 3, [1.0, 1.0, 1.0])["seen"] == 7


def test_float16_is_summed_in_float64():
    arrays = [{"w": np.full(10, 0.1, np.float16)}] * 1000
    mean = averaged(arrays, [1.0] * 1000)

    assert mean["w"].dtype == np.float16
    assert np.array_equal(mean["w"], arrays[0]["w"])


def test_tensors_larger_than_a_block_are_averaged_whole():
    big = np.random.default_rng(1).standard_normal(100_003)
    mean = averaged([{"w": big}, {"w": -big}], [3.0, 1.0])

    assert np.allclose(mean["w"], big / 2, rtol=1e-15)


def test_added_arrays_are_left_as_they_were():
    arrays = models(2)
    copies = [{name: array.copy() for name, array in one.items()} for one in arrays]
    averaged(arrays, [1.0, 2.0])

    assert all(np.array_equal(one[name], copy[name]) for one, copy in zip(arrays, copies, strict=True) for name in one)


def test_a_broadcastable_shape_is_refused():
    average = RunningAverage()
    average.add({"w": np.zeros((4, 3))}, 1.0)

    with pytest.raises(ShapeError, match=r"shape \(4, 3\), got \(1, 3\)"):
        average.add({"w": np.zeros((1, 3))}, 1.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match="finite and not negative"):
        RunningAverage().add({"w": np.zeros(2)}, weight)


def test_a_mean_of_nothing_says_what_to_do():
    average = RunningAverage()
    average.add({"w": np.zeros(2)}, 0.0)

    with pytest.raises(NotEnoughData, match="keep the previous model"):
        average.result()
