import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.planned import ada_batch, fixed, full, instead_of_decay, milestones, ramp
from fedmb.sizing.policy import Progress
from fedmb.sizing.schedule import cosine, steps
from fedmb.sizing.stats import Stats


def sizes(policy, *samples):
    return [policy(Progress(samples=count), Stats()) for count in samples]


def test_fixed_and_full_never_change():
    assert sizes(fixed(1), 0, 10**6) == [1, 1]
    assert sizes(full(1347), 0, 10**6) == [1347, 1347]


def test_milestones_hold_from_their_sample_on():
    policy = milestones({1000: 64, 0: 32, 5000: 256})

    assert sizes(policy, 0, 999, 1000, 4999, 5000, 10**6) == [32, 32, 64, 64, 256, 256]
    assert policy.largest == 256


def test_a_ramp_is_straight_and_stays_at_its_end():
    assert sizes(ramp(10, 110, 1000), 0, 250, 500, 1000, 9999) == [10, 35, 60, 110, 110]
    assert sizes(ramp(100, 20, 100), 0, 50, 100) == [100, 60, 20]


def test_ada_batch_doubles_at_each_distance():
    assert sizes(ada_batch(32, every_samples=1000), 0, 999, 1000, 3500) == [32, 32, 64, 256]
    assert sizes(ada_batch(10, every_samples=10, factor=1.5), 20) == [22]


def test_ada_batch_meets_its_bound_however_long_the_run():
    assert sizes(ada_batch(32, every_samples=1).clip(32, 512), 10**9) == [512]


def test_the_batch_grows_where_the_rate_would_have_fallen():
    policy = instead_of_decay(steps({1000: 0.25, 2000: 0.0625}), 64)

    assert sizes(policy, 0, 1000, 2000) == [64, 256, 1024]


def test_a_decay_to_zero_meets_the_bound():
    assert sizes(instead_of_decay(cosine(100), 32).clip(32, 512), 0, 50, 100) == [32, 64, 512]


@given(st.floats(0.01, 0.5), st.floats(0.5, 2.0), st.integers(2, 64))
def test_growing_the_batch_leaves_the_noise_of_decay(rate, curvature, k):
    # Stationary variance of SGD on a quadratic: rate * s2 / (B * h * (2 - rate * h)); minibatch reference, 2.13.
    def stationary(learning_rate, size):
        return learning_rate / (size * curvature * (2 - learning_rate * curvature))

    decay = steps({1: 1 / k})
    size = instead_of_decay(decay, 16)(Progress(samples=1), Stats())

    ratio = stationary(rate / k, 16) / stationary(rate, size)
    assert ratio == pytest.approx((2 - rate * curvature) / (2 - rate * curvature / k), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: fixed(0), "start size must be at least 1"),
        (lambda: milestones({}), "must start at 0"),
        (lambda: milestones({100: 32}), "must start at 0"),
        (lambda: milestones({0: 32, 10: 0}), "sizes of at least 1"),
        (lambda: ramp(0, 10, 10), "at least 1"),
        (lambda: ada_batch(32, every_samples=0), "at least 1 sample"),
        (lambda: ada_batch(32, every_samples=10, factor=1.0), "a factor above 1"),
        (lambda: instead_of_decay(cosine(10), 0), "at least 1"),
    ],
)
def test_plans_that_cannot_be_are_refused(make, rule):
    with pytest.raises(SettingsError, match=rule):
        make()


def test_a_plan_reads_nothing():
    assert not ada_batch(32, every_samples=10).reads
    assert ada_batch(32, every_samples=10).largest == math.inf
