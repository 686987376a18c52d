"""Page-Hinkley against its definition and against River's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.drift import PageHinkley as Theirs

from fedmb.errors import SettingsError
from fedmb.sizing.page_hinkley import PageHinkley

losses = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 64)), min_size=1, max_size=60)


@given(losses, st.floats(0, 1), st.floats(1, 200))
def test_it_rings_where_the_cumulative_sum_leaves_its_minimum_by_the_threshold(batches, delta, threshold):
    detector = PageHinkley(threshold=threshold, delta=delta, min_rows=0)
    rung = next((n for n, (mean, rows) in enumerate(batches) if detector.observe(mean, rows)), None)

    total, rows_seen, sums = 0.0, 0, [0.0]
    for number, (mean, rows) in enumerate(batches):
        total, rows_seen = total + mean * rows, rows_seen + rows
        sums.append(sums[-1] + rows * (mean - total / rows_seen - delta))
        above = sums[-1] - min(sums)
        if abs(above - threshold) < 1e-6:
            return  # rounding decides
        if above > threshold:
            assert rung == number
            return
    assert rung is None


@pytest.mark.parametrize("seed", range(5))
def test_single_rows_ring_where_river_does(seed):
    source = random.Random(seed)
    theirs = Theirs(min_instances=30, delta=0.1, threshold=20.0, alpha=1.0, mode="up")
    ours = PageHinkley(threshold=20.0, delta=0.1, min_rows=30)
    rung = 0
    for number in range(2000):
        value = source.gauss(1.0 + 0.8 * (number // 300), 0.3)
        theirs.update(value)
        rung += theirs.drift_detected

        assert ours.observe(value, 1) == theirs.drift_detected
    assert rung > 2


def test_rows_count_and_not_batches():
    def rings_at(rows):
        detector = PageHinkley(threshold=64.0, delta=0.0, min_rows=0)
        detector.observe(1.0, 4096)
        seen = 4096
        while not detector.observe(2.0, rows):
            seen += rows
        return seen + rows

    assert rings_at(4) == pytest.approx(rings_at(16), abs=16)


def test_after_an_alarm_the_new_loss_is_the_mean():
    detector = PageHinkley(threshold=10.0, delta=0.1, min_rows=64)
    rung = [detector.observe(value, 16) for value in [1.0] * 20 + [3.0] * 100]

    assert sum(rung) == 1


def test_a_falling_loss_rings_nothing():
    detector = PageHinkley(threshold=5.0, delta=0.0, min_rows=0)

    assert not any(detector.observe(3.0 / (1 + number), 16) for number in range(500))


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"delta": -0.1}, {"min_rows": -1}, {"threshold": float("nan")}])
def test_impossible_detectors_are_refused(wrong):
    with pytest.raises(SettingsError, match=r"take 50, 0\.05 and 512"):
        PageHinkley(**wrong)
