import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.sizing.noise_scale import moments
from fedmb.sizing.stats import Stats

EVENTS = [
    lambda stats: stats.observe_groups([8, 8, 2], [3.0, 2.5, 6.0], 1.7),
    lambda stats: stats.observe_step(18, 0.0031, 0.7),
    lambda stats: stats.observe_loss(2.3, 18),
    lambda stats: stats.spend(0.7),
    lambda stats: stats.observe_groups([16, 16], [2.0, 2.2], 1.4),
    lambda stats: stats.observe_step(32, 0.0047),
    lambda stats: stats.observe_clients([8, 24], [2.0, 1.8], 1.1, [9.0, 11.0]),
    lambda stats: stats.observe_step(64, 0.0081, 1.9),
    lambda stats: stats.observe_loss(1 / 3, 64),
    lambda stats: stats.observe_loss(math.nan, 64),
]
FIGURES = [
    "trace",
    "gradient_square",
    "noise",
    "tau_square",
    "dissimilarity",
    "loss",
    "overhead",
    "row_cost",
    "seconds_line",
    "joules_line",
    "steps",
    "rows",
    "seconds",
    "joules",
    "measurements",
    "set_aside",
]


def figures(stats):
    return {name: getattr(stats, name) for name in FIGURES}


def test_nothing_is_known_before_it_is_observed():
    stats = Stats()

    assert all(getattr(stats, name) is None for name in FIGURES[:10])
    assert all(getattr(stats, name) == 0 for name in FIGURES[10:])


def test_the_first_measurement_counts_in_full():
    stats = Stats()
    stats.observe_groups([8, 8, 2], [3.0, 2.5, 6.0], 1.7)
    found = moments([8, 8, 2], [3.0, 2.5, 6.0], 1.7)

    assert stats.trace == pytest.approx(found.trace, rel=1e-12)
    assert stats.gradient_square == pytest.approx(found.gradient_square, rel=1e-12)


def test_moments_are_averaged_before_they_are_divided():
    stats = Stats(half_life_rows=1e9)
    found = []
    for norms, total in (([2.0, 2.0], 1.5), ([4.0, 2.0], 2.5)):
        stats.observe_groups([16, 16], norms, total)
        found.append(moments([16, 16], norms, total))
    ratios = sum(one.trace / one.gradient_square for one in found) / 2

    assert stats.noise == pytest.approx(
        sum(one.trace for one in found) / sum(one.gradient_square for one in found), rel=1e-6
    )
    assert abs(stats.noise - ratios) > 0.1


def test_a_gradient_buried_in_noise_reads_as_endless_noise():
    stats = Stats()
    stats.observe_groups([16, 16], [2.0, 2.0], 0.5)

    assert stats.gradient_square < 0
    assert stats.noise == math.inf


def test_time_is_a_line_over_rows_once_two_sizes_were_seen():
    stats = Stats()
    stats.observe_step(32, 0.010 + 32 * 0.0001)
    assert stats.overhead is None
    assert stats.row_cost is None
    stats.observe_step(64, 0.010 + 64 * 0.0001)

    assert stats.overhead == pytest.approx(0.010)
    assert stats.row_cost == pytest.approx(0.0001)
    assert stats.joules_line is None
    assert (stats.steps, stats.rows) == (2, 96)


def test_steps_without_joules_leave_the_energy_fit_alone():
    stats = Stats()
    stats.observe_step(32, 0.01, 5.0)
    stats.observe_step(64, 0.02)
    stats.observe_step(96, 0.03, 11.0)

    assert stats.joules_line.slope == pytest.approx(6 / 64)
    assert stats.joules == 0


def test_what_is_spent_adds_up_apart_from_the_line():
    stats = Stats()
    stats.spend(5.0)
    stats.observe_step(32, 0.01, 3.0)
    stats.spend(3.0)

    assert stats.joules == 8
    with pytest.raises(ValueError, match="read one meter twice"):
        stats.spend(-1.0)


def test_a_cost_lacks_a_size_while_it_was_observed_at_one_only():
    stats = Stats()
    assert not stats.lacks_a_size("seconds")
    stats.observe_step(32, 0.01)
    stats.observe_step(32, 0.02)
    assert stats.lacks_a_size("seconds")
    assert not stats.lacks_a_size("joules")
    stats.observe_step(16, 0.01)
    assert not stats.lacks_a_size("seconds")


def test_figures_that_are_not_finite_are_set_aside_and_counted():
    stats = Stats()
    stats.observe_groups([8, 8], [math.inf, 1.0], math.nan)
    stats.observe_clients([8, 8], [1.0, 1.0], 0.5, [math.nan, 1.0])
    stats.observe_loss(math.inf, 32)

    assert stats.set_aside == 3
    assert stats.measurements == 0
    assert stats.noise is None
    assert stats.loss is None


def test_loss_weighs_by_rows():
    stats = Stats(half_life_rows=1e9)
    stats.observe_loss(1.0, 30)
    stats.observe_loss(4.0, 10)

    assert stats.loss == pytest.approx(1.75, rel=1e-6)


def test_memory_counts_rows_and_not_calls():
    one, many = Stats(half_life_rows=100), Stats(half_life_rows=100)
    for stats in (one, many):
        stats.observe_loss(5.0, 64)
    one.observe_loss(1.0, 64)
    for _ in range(8):
        many.observe_loss(1.0, 8)

    assert many.loss == pytest.approx(one.loss, rel=1e-12)


def test_clients_that_differ_are_reported_apart_from_noise():
    stats = Stats()
    # Q = 0.75, so tau^2 = 0.75 - 2 * (1/4) * 4/8 = 0.5 and |G|^2 = 1.25 - 2 * (1/4) * 4/8 = 1.
    stats.observe_clients([8, 8], [2.0, 2.0], 1.25, [4.0, 4.0])

    assert stats.tau_square == pytest.approx(0.5)
    assert stats.dissimilarity == pytest.approx(1.5)
    assert stats.noise == pytest.approx(4.0)


@given(st.integers(0, len(EVENTS)))
def test_resuming_anywhere_goes_on_bitwise(stop):
    straight, stopped, resumed = Stats(), Stats(), Stats()
    for event in EVENTS:
        event(straight)
    for event in EVENTS[:stop]:
        event(stopped)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
    for event in EVENTS[stop:]:
        event(resumed)

    assert figures(resumed) == figures(straight)
    assert resumed.state_dict() == straight.state_dict()


def test_a_state_of_something_else_is_refused_and_changes_nothing():
    stats = Stats()
    stats.observe_loss(2.0, 8)
    before = stats.state_dict()

    with pytest.raises(ValueError, match="belongs elsewhere"):
        stats.load_state_dict({"averages": {}})
    assert stats.state_dict() == before


@pytest.mark.parametrize(("rows", "seconds", "joules"), [(0, 1.0, None), (8, -1.0, None), (8, 1.0, math.nan)])
def test_a_step_that_cannot_be_is_refused(rows, seconds, joules):
    with pytest.raises(ValueError, match="time whole steps"):
        Stats().observe_step(rows, seconds, joules)
