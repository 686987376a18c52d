import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.learning_rate import adam_gain, gain, legw, linear, linear_scaled, sqrt, sqrt_scaled, unscaled

sizes = st.integers(1, 4096)
noises = st.floats(0, 1e6)


def test_linear_and_square_root_on_a_fixed_tuple():
    assert linear_scaled(0.1, 256, 64) == pytest.approx(0.4)
    assert sqrt_scaled(0.1, 256, 64) == pytest.approx(0.2)


@given(sizes, sizes)
def test_no_noise_is_a_constant_rate_and_endless_noise_the_linear_rule(size, base):
    assert gain(size, base, 0.0) == 1
    assert gain(size, base, math.inf) == size / base
    assert gain(size, base, 1e12) == pytest.approx(size / base, rel=1e-6)


@given(sizes, sizes, noises)
def test_gain_is_adascales_and_mccandlishs(size, base, noise):
    scale = size / base
    variance, mean_square = noise / base, 1.0  # of the gradient of a base batch
    adascale = (variance + mean_square) / (variance / scale + mean_square)
    mccandlish = (1 / (1 + noise / size)) / (1 / (1 + noise / base))

    assert gain(size, base, noise) == pytest.approx(adascale, rel=1e-9)
    assert gain(size, base, noise) == pytest.approx(mccandlish, rel=1e-9)


@given(sizes, sizes, noises)
def test_gain_grows_with_the_batch_and_lies_between_its_limits(size, base, noise):
    found = gain(size, base, noise)

    assert gain(size + 1, base, noise) >= found
    assert min(1, size / base) * (1 - 1e-12) <= found <= max(1, size / base) * (1 + 1e-12)


@given(sizes, sizes, noises)
def test_unknown_noise_takes_the_safe_limit(size, base, noise):
    assert gain(size, base, None) == min(1, size / base)
    assert gain(size, base, None) <= gain(size, base, noise) * (1 + 1e-12)


@given(sizes, sizes, st.none() | noises)
def test_adam_gain_is_the_square_root(size, base, noise):
    assert adam_gain(size, base, noise) ** 2 == pytest.approx(gain(size, base, noise))


def test_adam_gain_between_the_square_root_rule_and_none():
    assert adam_gain(256, 64, math.inf) == sqrt(256, 64) == 2
    assert adam_gain(256, 64, 0.0) == unscaled(256, 64) == 1


@given(st.integers(1, 64), st.integers(1, 512), st.floats(-10, 10), st.floats(1e-4, 1.0))
def test_k_steps_at_the_base_are_one_linear_step_where_the_gradient_is_constant(k, base, slope, rate):
    weight = 0.0
    for _ in range(k):
        weight -= rate * slope

    assert -linear_scaled(rate, k * base, base) * slope == pytest.approx(weight, rel=1e-9)


def test_legw_stretches_the_warmup_with_the_batch_and_scales_by_the_square_root():
    rise = legw(256, base_size=64, warmup_samples=1000)

    assert [rise(samples) for samples in (0, 2000, 4000, 9000)] == pytest.approx([0, 1, 2, 2])
    assert legw(64, base_size=64, warmup_samples=1000)(1000) == 1


@pytest.mark.parametrize("rule", [linear, sqrt, lambda size, base: gain(size, base, 50.0)])
@pytest.mark.parametrize(("size", "base"), [(0, 64), (64, 0), (-1, 64)])
def test_sizes_that_are_not_positive_are_refused(rule, size, base):
    with pytest.raises(SettingsError, match="sizes must be positive"):
        rule(size, base)


@pytest.mark.parametrize("noise", [-1.0, math.nan])
def test_a_noise_that_cannot_be_is_refused(noise):
    with pytest.raises(ValueError, match="at least 0"):
        gain(64, 32, noise)
