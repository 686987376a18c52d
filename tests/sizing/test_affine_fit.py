import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.affine_fit import AffineFit, Line


def fitted(points, half_life=50.0):
    fit = AffineFit(half_life)
    for rows, cost in points:
        fit.observe(rows, cost)
    return fit


def test_it_is_absent_until_two_different_sizes_were_seen():
    assert fitted([]).line is None
    assert fitted([(32, 0.1), (32, 0.2), (32, 0.15)]).line is None
    assert fitted([(32, 0.1), (64, 0.2)]).line is not None


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(-0.1, 0.1)), min_size=3, max_size=40), st.floats(10, 1000))
def test_it_is_weighted_least_squares(points, half_life):
    rows = np.array([n for n, _ in points], float)
    rows[1] = 2 * rows[0]  # so that the slope is well determined from the start
    cost = 10 + 0.5 * rows + np.array([noise for _, noise in points])
    weights = 0.5 ** (np.arange(len(rows))[::-1] / half_life)
    design = np.stack([np.ones_like(rows), rows], axis=1) * np.sqrt(weights)[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(design, cost * np.sqrt(weights), rcond=None)

    line = fitted(zip(rows, cost, strict=True), half_life).line

    assert fixed > 0
    assert line.slope == pytest.approx(slope, rel=1e-6)
    assert line.fixed == pytest.approx(fixed, rel=1e-6)


def test_neither_part_is_negative_and_the_other_is_then_the_best_alone():
    falling = fitted([(10, 2.0), (20, 1.0)], half_life=1e9).line
    through_zero = fitted([(10, 1.0), (20, 4.0)], half_life=1e9).line

    assert falling == Line(pytest.approx(1.5), 0.0)
    assert through_zero == Line(0.0, pytest.approx((10 * 1 + 20 * 4) / (10**2 + 20**2)))


def test_old_steps_are_forgotten():
    before = [(size, 1.0 + 0.1 * size) for size in (8, 16, 32)] * 20
    after = [(size, 5.0 + 0.3 * size) for size in (8, 16, 32)] * 40

    line = fitted(before + after, half_life=5).line

    assert line.fixed == pytest.approx(5.0, rel=1e-3)
    assert line.slope == pytest.approx(0.3, rel=1e-3)


def test_a_size_that_settles_keeps_the_slope_and_follows_the_level():
    fit = fitted([(8, 1.8), (32, 4.2)], half_life=5)
    for step in range(5000):
        fit.observe(64, 7.4 + 0.01 * (-1) ** step)

    assert fit.line.slope == pytest.approx(0.1, rel=0.01)
    assert fit.line.fixed + 64 * fit.line.slope == pytest.approx(7.4, abs=0.01)


def test_resuming_goes_on_bitwise():
    points = [(8, 0.31), (32, 0.57), (8, 0.29), (64, 1.1)]
    fit, resumed = fitted(points[:2]), AffineFit(50.0)
    resumed.load_state_dict(json.loads(json.dumps(fit.state_dict())))
    for one in (fit, resumed):
        for rows, cost in points[2:]:
            one.observe(rows, cost)

    assert resumed.line == fit.line


def test_a_half_life_that_is_no_positive_number_is_refused():
    with pytest.raises(SettingsError, match="half-life must be positive"):
        AffineFit(0)
