"""Progress a second and a joule: the closed forms against a search over all sizes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.affine_fit import Line
from fedmb.sizing.energy import energy_budget, energy_goodput
from fedmb.sizing.goodput import best_size, goodput, goodput_gain, progress_per_cost
from fedmb.sizing.policy import Progress
from fedmb.sizing.stats import Stats


def stats_of(noise=True, seconds=True, joules=True):
    """Noise 50; a step takes 6 ms + 0.1 ms a row, and 0.3 J + 0.01 J a row."""
    stats = Stats()
    if noise:
        stats.observe_groups([8, 8], [29.0, 29.0], 16.5)
    if seconds:
        for rows in (16, 64):
            stats.observe_step(rows, 6e-3 + 1e-4 * rows, 0.3 + 0.01 * rows if joules else None)
            stats.spend(0.3 + 0.01 * rows if joules else 0.0)
    return stats


@given(st.floats(1, 1e4), st.floats(1e-4, 1), st.floats(1e-6, 1e-2))
def test_closed_form_is_the_best_of_all_sizes(noise, overhead, row_cost):
    cost = Line(overhead, row_cost)
    optimum = best_size(noise, cost)
    sizes = optimum * np.geomspace(0.05, 20, 2001)

    best = max(sizes, key=lambda size: progress_per_cost(size, noise, cost))

    assert optimum == pytest.approx(best, rel=0.01)
    assert progress_per_cost(optimum, noise, cost) >= progress_per_cost(best, noise, cost) * (1 - 1e-12)


def test_goodput_is_pollux_argmax_over_whole_sizes():
    # AdaptDL: throughput B / (a + c B) times efficiency (noise + B0) / (noise + B); the reference measured 245.
    noise, overhead, row_cost, base = 50.0, 0.12, 1e-4, 16
    best = max(range(1, 5000), key=lambda b: b / (overhead + row_cost * b) * (noise + base) / (noise + b))

    assert best == 245 == round(best_size(noise, Line(overhead, row_cost)))


def test_goodput_and_its_twin_in_joules_on_a_fixed_tuple():
    assert goodput(32)(Progress(), stats_of()) == 55  # sqrt(50 * 60) = 54.8
    assert energy_goodput(32)(Progress(), stats_of()) == 39  # sqrt(50 * 30) = 38.7


@pytest.mark.parametrize("missing", ["noise", "seconds"])
def test_goodput_answers_its_start_until_noise_and_time_are_known(missing):
    assert goodput(24)(Progress(), stats_of(**{missing: False})) == 24


def test_without_measured_joules_energy_policies_stay_at_their_start():
    stats = stats_of(joules=False)

    assert energy_goodput(24)(Progress(), stats) == 24
    assert energy_budget(10.0, 1000, start=24)(Progress(), stats) == 24


def test_edges_of_the_closed_form():
    assert best_size(50, Line(0.0, 1e-4)) == 0
    assert best_size(0, Line(0.1, 1e-4)) == 0
    assert best_size(50, Line(0.1, 0.0)) == math.inf
    assert best_size(math.inf, Line(0.1, 1e-4)) == math.inf


def test_a_change_that_gains_under_five_percent_goodput_is_not_made():
    policy = goodput(32).damped()
    near = goodput_gain(45, 54.8, stats_of())
    far = goodput_gain(16, 32, stats_of())

    assert near < 0.05 < far
    assert policy(Progress(size=45), stats_of()) == 45  # 22 % more rows, 1 % more goodput
    assert policy(Progress(size=16), stats_of()) == 32


def test_a_budget_takes_the_smallest_size_that_suffices():
    stats = stats_of()  # 0.3 + 0.01 B joules a step; 0.94 + 0.46 = 1.4 J are spent
    policy = energy_budget(1.4 + 20.0, 1080, start=4)
    size = policy.rule(Progress(samples=80), stats)

    # 20 J for 1000 rows are 0.02 J a row: 0.01 + 0.3 / B <= 0.02 from B = 30 on.
    assert stats.joules == pytest.approx(1.4)
    assert size == pytest.approx(30)
    assert 1000 / size * (0.3 + 0.01 * size) == pytest.approx(20.0)


def test_a_generous_budget_leaves_the_start_and_a_hopeless_one_meets_the_bound():
    assert energy_budget(1e6, 1000, start=4)(Progress(), stats_of()) == 4
    assert energy_budget(5.0, 1000, start=4).clip(4, 512)(Progress(), stats_of()) == 512
    assert energy_budget(5.0, 1000, start=4).clip(4, 512)(Progress(samples=1000), stats_of()) == 4


@pytest.mark.parametrize(("joules", "samples"), [(0, 10), (10, 0), (-1, 10)])
def test_a_budget_of_nothing_is_refused(joules, samples):
    with pytest.raises(SettingsError, match="joules above 0"):
        energy_budget(joules, samples, start=32)


def test_policies_say_what_has_to_be_measured():
    assert goodput(32).reads == {"noise", "seconds"}
    assert energy_goodput(32).reads == {"noise", "joules"}
    assert energy_budget(1.0, 1, start=32).reads == {"joules"}
