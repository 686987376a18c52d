import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmb.arrays.bfloat16 import BFLOAT16, dithered, is_finite, is_real, rounded, widened

FLOATS = st.lists(st.floats(width=32), max_size=50).map(lambda values: np.array(values, np.float32))


def torchs(values):
    return torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()


@given(FLOATS)
def test_the_nearest_is_torchs_nearest(values):
    assert np.array_equal(widened(rounded(values)), torchs(values), equal_nan=True)


@given(FLOATS)
def test_what_is_bfloat16_already_is_not_changed(values):
    exact = torchs(values)

    assert np.array_equal(widened(rounded(exact)), exact, equal_nan=True)
    assert np.array_equal(widened(dithered(exact, np.random.default_rng(0))), exact, equal_nan=True)


@given(FLOATS, st.integers(0, 9))
def test_chance_chooses_between_the_two_neighbours(values, seed):
    back = widened(dithered(values, np.random.default_rng(seed)))
    toward_zero = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    away = (toward_zero.view(np.uint32) + np.uint32(0x10000)).view(np.float32)

    assert (((back == toward_zero) | (back == away)) | ~np.isfinite(values)).all()
    assert np.array_equal(np.isnan(back), np.isnan(values))


def test_rounding_by_chance_has_the_value_as_its_expectation():
    values = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    draws = np.stack([widened(dithered(values, np.random.default_rng([1, draw]))) for draw in range(4000)])
    step = np.abs(widened(rounded(values))) * 2.0**-7
    error = draws.mean(axis=0, dtype=np.float64) - values

    # Five standard errors of a mean of 4000 draws whose deviation is at most half a step.
    assert (np.abs(error) <= 5 * step / 2 / np.sqrt(4000)).all()
    assert (np.abs(widened(rounded(values)) - values) > 5 * step / 2 / np.sqrt(4000)).any()  # the nearest is biased


def test_shapes_stay_and_nobody_calculates_with_bits():
    array = rounded(np.ones((2, 3)))

    assert (array.dtype, array.shape, widened(array).shape) == (BFLOAT16, (2, 3), (2, 3))
    try:
        array + array
    except TypeError:
        return
    raise AssertionError("bits were added")


def test_real_and_finite_numbers_are_told():
    assert is_real(BFLOAT16)
    assert is_real(np.dtype(np.float16))
    assert not is_real(np.dtype(np.int64))
    assert not is_real(np.dtype(bool))
    assert is_finite(rounded(np.array([1.0, 3.3e38])))
    assert not is_finite(rounded(np.array([1.0, np.inf])))
    assert not is_finite(rounded(np.array([np.nan])))
    assert is_finite(np.array([2**40]))
    assert not is_finite(np.append(np.zeros(1 << 17), np.nan))
