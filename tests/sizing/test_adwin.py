"""ADWIN against River's, observation by observation, and what it makes of losses."""

import json
import random

import pytest
from river.drift import ADWIN

from fedmb.errors import SettingsError
from fedmb.sizing.adwin import Adwin

LEVELS = (0.5, 1.5, 0.7, 0.2, 0.25)


def losses(seed, count=3500, spread=0.3):
    source = random.Random(seed)
    return [source.gauss(LEVELS[(number // 700) % len(LEVELS)], spread) for number in range(count)]


@pytest.mark.parametrize("clock", [1, 4, 32])
@pytest.mark.parametrize("seed", range(4))
def test_every_window_is_that_of_river(seed, clock):
    theirs, ours, cuts = ADWIN(delta=0.002, clock=clock), Adwin(delta=0.002, clock=clock), 0
    for value in losses(seed):
        theirs.update(value)
        was_cut, cuts = theirs.drift_detected, cuts + theirs.drift_detected
        theirs._drift_detected = False  # River throws the whole window away after a cut; the paper goes on with it

        assert bool(ours.changes(value)) == was_cut
        assert ours.width == theirs.width
        assert ours.mean == pytest.approx(theirs.estimation, rel=1e-9)
        assert ours.variance * ours.width == pytest.approx(theirs.variance, rel=1e-6)  # River's is not divided yet
    assert cuts > 4


def test_it_rings_when_the_loss_rises_and_not_when_it_falls():
    adwin = Adwin(clock=1)
    rung = [adwin.observe(value, 16) for value in [2.0] * 200 + [0.5] * 200 + [1.5] * 200]

    assert not any(rung[:400])
    assert any(rung[400:430])
    assert sum(rung) == 1


@pytest.mark.parametrize("seed", range(4))
def test_on_a_loss_that_only_rises_it_rings_where_river_does(seed):
    theirs, ours, source, rung = ADWIN(clock=4), Adwin(clock=4), random.Random(seed), 0
    for number in range(2000):
        value = source.gauss(0.5 + number // 400, 0.3)
        theirs.update(value)
        rung += theirs.drift_detected

        assert ours.observe(value, 16) == theirs.drift_detected
    assert rung == 4


def test_noise_alone_rings_as_rarely_as_its_delta_says():
    source = random.Random(5)
    adwin = Adwin(delta=0.002, clock=1)

    assert sum(adwin.observe(source.gauss(1.0, 0.5), 16) for _ in range(20_000)) == 0


def test_a_window_of_a_hundred_thousand_takes_a_hundred_numbers():
    adwin = Adwin(clock=1000)
    for _ in range(100_000):
        adwin.observe(1.0, 8)

    assert adwin.width == 100_000
    assert len(json.dumps(adwin.state_dict())) < 3000


def test_an_empty_window_has_no_mean():
    assert (Adwin().mean, Adwin().width, Adwin().variance) == (None, 0, 0.0)


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"delta": 1.0}, {"clock": 0}])
def test_impossible_windows_are_refused(wrong):
    with pytest.raises(SettingsError, match=r"take 0\.002 and 32"):
        Adwin(**wrong)
