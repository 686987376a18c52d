import math

import pytest

from fedmb.errors import SettingsError
from fedmb.sizing.adaptive import cabs, mccandlish, norm_test
from fedmb.sizing.policy import Progress
from fedmb.sizing.stats import Stats


def stats_of(*, loss=None):
    """Trace 200 and |G|^2 4, so a noise of 50 rows: Q = 12.5 between two groups of 8, |g|^2 = 4 + 200 / 16."""
    stats = Stats()
    stats.observe_groups([8, 8], [29.0, 29.0], 16.5)
    if loss is not None:
        stats.observe_loss(loss, 16)
    return stats


def test_the_fixed_tuple_is_what_it_says():
    assert (stats_of().trace, stats_of().gradient_square) == (pytest.approx(200), pytest.approx(4))


def test_mccandlish_answers_the_noise():
    assert mccandlish(32)(Progress(), stats_of()) == 50


@pytest.mark.parametrize(("theta", "size"), [(1.0, 50), (0.5, 200), (2.5, 8), (0.1, 5000)])
def test_norm_test_answers_the_noise_over_theta_squared(theta, size):
    assert norm_test(theta, 32)(Progress(), stats_of()) == size


@pytest.mark.parametrize("theta", [0.5, 1.0, 3.0])
def test_norm_test_is_met_with_equality(theta):
    stats = stats_of()
    size = norm_test(theta, 32).rule(Progress(), stats)

    assert math.sqrt(stats.trace / size) == pytest.approx(theta * math.sqrt(stats.gradient_square))


def test_cabs_answers_rate_times_trace_over_loss():
    assert cabs(32)(Progress(learning_rate=0.1), stats_of(loss=0.25)) == 80


def test_cabs_without_a_loss_to_lose_meets_its_bound():
    assert cabs(32).clip(8, 512)(Progress(learning_rate=0.1), stats_of(loss=0.0)) == 512


@pytest.mark.parametrize("policy", [mccandlish(24), norm_test(0.5, 24), cabs(24)])
def test_before_anything_is_known_they_answer_their_start(policy):
    assert policy(Progress(learning_rate=0.1), Stats()) == 24


def test_cabs_waits_for_loss_and_rate():
    assert cabs(24)(Progress(learning_rate=0.1), stats_of()) == 24
    assert cabs(24)(Progress(), stats_of(loss=1.0)) == 24


def test_a_gradient_buried_in_noise_asks_for_the_upper_bound():
    stats = Stats()
    stats.observe_groups([8, 8], [2.0, 2.0], 0.5)

    assert mccandlish(32).clip(8, 256)(Progress(), stats) == 256


@pytest.mark.parametrize("theta", [0, -1, math.inf])
def test_a_theta_that_is_no_positive_number_is_refused(theta):
    with pytest.raises(SettingsError, match="theta must be positive"):
        norm_test(theta, 32)
