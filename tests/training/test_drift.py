"""What an alarm changes, for how long, and which settings contradict each other."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay
from fedmb.sizing.adwin import Adwin
from fedmb.sizing.page_hinkley import PageHinkley
from fedmb.training.drift import Drift, DriftResponse


class Endless(TableSource):
    examples_per_epoch = math.inf


def rows():
    return {"y": np.arange(9)}


def rung(**switches):
    response = DriftResponse(Drift(detector="adwin", **switches), multiple=4)
    response.begin(1000)
    return response


def test_before_an_alarm_nothing_changes():
    response = DriftResponse(Drift(detector="adwin", rewarm=4, shrink=0.5, replay_share=0.1))

    assert (response.rate_factor(5000), response.size(32, 5000), response.share(5000)) == (1.0, 32, None)


def test_the_rate_is_warmed_again_and_cools_in_a_straight_line():
    response = rung(rewarm=3.0, rewarm_samples=400)

    assert [response.rate_factor(1000 + after) for after in (0, 100, 200, 400, 900)] == [3.0, 2.5, 2.0, 1.0, 1.0]


def test_a_rate_that_is_never_changed_needs_no_schedule():
    assert rung(shrink=0.5).schedule is None
    assert rung(rewarm=2.0).schedule(1000) == 2.0


def test_batches_are_smaller_for_a_while_in_whole_groups():
    response = rung(shrink=0.3, shrink_samples=100)

    assert [response.size(size, 1050) for size in (64, 40, 8)] == [16, 12, 4]
    assert response.size(64, 1100) == 64


def test_the_replayed_share_is_another_for_a_while():
    response = rung(replay_share=0.125, replay_samples=100)

    assert [response.share(samples) for samples in (1000, 1099, 1100)] == [0.125, 0.125, None]


def test_a_second_alarm_begins_anew():
    response = rung(rewarm=3.0, rewarm_samples=400)
    response.begin(1300)

    assert response.rate_factor(1300) == 3.0


def test_detectors_are_built_by_name():
    assert Drift().build() is None
    assert isinstance(Drift(detector="page-hinkley").build(), PageHinkley)
    assert isinstance(Drift(detector="adwin").build(), Adwin)


@pytest.mark.parametrize("answer", [{"rewarm": 2.0}, {"shrink": 0.5}, {"replay_share": 0.0}])
def test_an_answer_without_a_detector_is_refused(answer):
    with pytest.raises(ValidationError, match="set detector to page-hinkley or adwin"):
        Drift(**answer)


def test_a_replayed_share_needs_a_stream_that_is_remembered():
    drift = Drift(detector="adwin", replay_share=0.25)
    stream = Endless(rows(), seed=0, client="a")
    ring = Ring.in_memory(stream.schema, 20)

    with pytest.raises(SettingsError, match="needs a stream whose rows are remembered"):
        drift.check(stream)
    drift.check(TableSource(rows(), seed=0, client="a"))  # a table is quiet
    drift.check(Blend(stream, UniformReplay(ring, 20, seed=0, client="a"), 0.5))
    Drift(detector="adwin").check(stream)
