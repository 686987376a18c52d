import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.clocks import Follow, momentum, norm_momentum, weight_decay
from fedmb.sizing.learning_rate import adam_gain, gain, linear, sqrt
from fedmb.sizing.stats import Stats


def stats_with_noise():
    """A noise of 50 rows."""
    stats = Stats()
    stats.observe_groups([8, 8], [29.0, 29.0], 16.5)
    return stats


def test_two_steps_of_half_a_batch_forget_what_one_step_does():
    whole = momentum(0.81, 64)
    halves = momentum(0.9, 32)

    assert whole(32) == pytest.approx(0.9, rel=1e-15)
    assert halves(64) == pytest.approx(0.81, rel=1e-15)


@given(st.floats(0, 1), st.lists(st.integers(1, 100), min_size=1, max_size=8), st.floats(-5, 5))
def test_any_partition_of_the_rows_averages_a_constant_signal_alike(beta, parts, signal):
    clock = momentum(beta, 32)

    def averaged(rows):
        average = 1.0
        for count in rows:
            average = clock(count) * average + (1 - clock(count)) * signal
        return average

    assert averaged(parts) == pytest.approx(averaged([sum(parts)]), rel=1e-9, abs=1e-9)


@given(st.floats(0.001, 0.999), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_batch_norm_renews_what_momentum_does_not_keep(share, parts):
    renewed, kept = norm_momentum(share, 32), momentum(1 - share, 32)
    old = math.prod(1 - renewed(count) for count in parts)

    assert renewed(32) == share
    assert renewed(48) == pytest.approx(1 - kept(48), rel=1e-9, abs=1e-12)
    assert old == pytest.approx(1 - renewed(sum(parts)), rel=1e-6)


def test_the_ends_of_a_share_stay_where_they_are():
    assert (norm_momentum(1.0, 32)(7), norm_momentum(0.0, 32)(7)) == (1, 0)
    assert (momentum(1.0, 32)(7), momentum(0.0, 32)(7)) == (1, 0)


@pytest.mark.parametrize("rule", [linear, sqrt, gain, None], ids=["linear", "sqrt", "gain", "no scaling"])
def test_an_unused_weight_shrinks_alike_in_an_epoch_of_any_batch(rule):
    rate, decay, rows = 0.1, 0.001, 6400
    follow = Follow(base=32, learning_rate=rule, weight_decay=decay)

    def shrinkage(size):
        values = follow.values(size, stats_with_noise())
        step = rate * values.get("learning_rate_factor", 1.0) * values["weight_decay"]
        return (1 - step) ** (rows // size)

    # Equal but for the second order of rate * decay, which the timescale of the paper leaves out.
    assert shrinkage(16) == pytest.approx(shrinkage(64), rel=1e-5)
    assert shrinkage(16) == pytest.approx(math.exp(-rate * decay * rows / 32), rel=1e-5)


def test_decay_that_is_not_followed_shrinks_four_times_as_much_at_a_quarter():
    without = [(1 - 0.1 * 0.001) ** (6400 // size) for size in (16, 64)]

    assert math.log(without[0]) == pytest.approx(4 * math.log(without[1]))


def test_timescale_on_a_fixed_tuple():
    assert weight_decay(0.01, 64, 32) == 0.02
    assert weight_decay(0.01, 64, 32, rate_factor=2.0) == 0.01


def test_values_follow_the_rows_of_the_step():
    follow = Follow(
        base=32,
        learning_rate=gain,
        momentum=0.9,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        norm_momentum=0.1,
        ema_decay=0.99,
        dropout=lambda rows, stats: 3.2 / rows,
    )
    factor = (1 + 50 / 32) / (1 + 50 / 64)

    assert follow.values(64, stats_with_noise()) == {
        "learning_rate_factor": pytest.approx(factor),
        "momentum": pytest.approx(0.81),
        "beta1": pytest.approx(0.81),
        "beta2": pytest.approx(0.998001),
        "weight_decay": pytest.approx(0.02 / factor),
        "norm_momentum": pytest.approx(0.19),
        "ema_decay": pytest.approx(0.9801),
        "dropout": pytest.approx(0.05),
    }


def test_at_the_base_size_everything_is_exactly_what_was_given():
    follow = Follow(base=32, learning_rate=linear, momentum=0.9, weight_decay=0.01, norm_momentum=0.1)

    assert follow.values(32, Stats()) == {
        "learning_rate_factor": 1.0,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "norm_momentum": 0.1,
    }


def test_what_is_not_followed_is_not_mentioned():
    assert Follow(base=32).values(64, Stats()) == {}


def test_only_rules_that_look_at_the_noise_ask_for_it():
    assert not Follow(base=32, learning_rate=linear).reads
    assert Follow(base=32, learning_rate=adam_gain).reads == {"noise"}
    assert Follow(base=32, learning_rate=lambda size, base, noise: 1.0).reads == {"noise"}


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"base": 0}, "base size must be at least 1"),
        ({"base": 32, "momentum": 1.1}, "must be 0 to 1"),
        ({"base": 32, "betas": (0.9, -0.1)}, "must be 0 to 1"),
    ],
)
def test_values_that_cannot_be_are_refused(values, rule):
    with pytest.raises(SettingsError, match=rule):
        Follow(**values)


def test_a_dropout_rule_that_leaves_its_range_is_an_error():
    with pytest.raises(ValueError, match="bound your rule"):
        Follow(base=32, dropout=lambda rows, stats: rows / 32).values(64, Stats())
