import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.moving_average import MovingAverage

values = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.5, 500)), min_size=1, max_size=20)


def test_the_first_observation_is_the_average():
    average = MovingAverage(1000)
    average.observe(3.5, 1)

    assert average.value == pytest.approx(3.5, rel=1e-15)


def test_nothing_observed_is_absent():
    assert MovingAverage(10).value is None


@given(values)
def test_it_is_the_weighted_mean_with_weights_halved_each_half_life(observed):
    average, half_life = MovingAverage(100), 100
    for value, amount in observed:
        average.observe(value, amount)

    amounts = [amount for _, amount in observed]
    weights = [(1 - 0.5 ** (n / half_life)) * 0.5 ** (sum(amounts[i + 1 :]) / half_life) for i, n in enumerate(amounts)]
    slow = sum(w * value for w, (value, _) in zip(weights, observed, strict=True)) / sum(weights)
    assert average.value == pytest.approx(slow, rel=1e-9, abs=1e-6)


def test_two_halves_of_a_window_weigh_what_the_whole_does():
    halves, whole = MovingAverage(64), MovingAverage(64)
    for average in (halves, whole):
        average.observe(1.0, 30)
    halves.observe(5.0, 16)
    halves.observe(5.0, 16)
    whole.observe(5.0, 32)

    assert halves.value == pytest.approx(whole.value, rel=1e-14)


def test_resuming_goes_on_bitwise():
    average, resumed = MovingAverage(7), MovingAverage(7)
    average.observe(1 / 3, 5)
    resumed.load_state_dict(json.loads(json.dumps(average.state_dict())))
    for one in (average, resumed):
        one.observe(0.1, 3)

    assert resumed.value == average.value


@pytest.mark.parametrize("half_life", [0, -1, float("inf"), float("nan")])
def test_a_half_life_that_is_no_positive_number_is_refused(half_life):
    with pytest.raises(SettingsError, match="half-life must be positive"):
        MovingAverage(half_life)
