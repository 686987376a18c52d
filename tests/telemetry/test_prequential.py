"""Windowed and fading sums against three slow lines."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.telemetry.prequential import Prequential, prequential_means

batches = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 5)), min_size=1, max_size=60)


def scored(score, observed):
    for rows, loss in observed:
        score.observe(rows, {"units": float(rows), "loss": loss * rows})
    return score


@given(batches, st.integers(1, 200))
def test_the_window_holds_the_newest_rows_and_hardly_more(observed, window):
    score = scored(Prequential(window=window), observed)

    most = max(rows for rows, _ in observed)
    assert min(window, sum(rows for rows, _ in observed)) <= score.rows < window + window / 32 + 2 * most
    newest, tail = 0, list(observed)
    while newest < score.rows:
        newest += tail.pop()[0]
    inside = observed[len(tail) :]
    assert newest == score.rows
    assert score.windowed()["loss"] == pytest.approx(sum(rows * loss for rows, loss in inside))


@given(batches, st.floats(0.9, 1))
def test_fading_sums_weigh_rows_by_their_age(observed, fading):
    faded = scored(Prequential(fading=fading), observed).faded()

    ages = [sum(rows for rows, _ in observed[number + 1 :]) for number in range(len(observed))]
    weights = [fading**age * rows for age, (rows, _) in zip(ages, observed, strict=True)]
    assert faded["units"] == pytest.approx(sum(weights))
    assert faded["loss"] == pytest.approx(sum(w * loss for w, (_, loss) in zip(weights, observed, strict=True)))


def test_its_state_stays_small_however_small_the_batches():
    score = scored(Prequential(window=4096), [(1, 0.5)] * 20_000)

    assert len(score.state_dict()["blocks"]) <= 34
    assert score.rows == pytest.approx(4096, rel=0.04)


def test_a_batch_that_is_not_finite_is_set_aside_and_poisons_nothing():
    score = Prequential()
    score.observe(4, {"units": 4.0, "loss": 2.0})

    assert not score.observe(4, {"units": 4.0, "loss": math.nan})
    assert (score.windowed()["loss"], score.faded()["loss"], score.set_aside) == (2.0, 2.0, 1)


def test_sums_of_clients_are_added_and_divided_once():
    one, other = Prequential(), Prequential()
    one.observe(30, {"units": 30.0, "loss": 30.0, "accuracy": 15.0})
    other.observe(10, {"units": 10.0, "loss": 50.0, "accuracy": 10.0})
    both = {name: value + other.sums()[name] for name, value in one.sums().items()}

    means = prequential_means(both)

    assert means["prequential_loss"] == means["fading_loss"] == 2.0
    assert means["prequential_accuracy"] == 25 / 40


def test_nothing_seen_has_no_means():
    assert prequential_means(Prequential().sums()) == {}
    assert prequential_means({"loss": 3.0, "units": 2.0}) == {}


def test_the_state_is_json_and_goes_on():
    score = scored(Prequential(window=50, fading=0.99), [(7, 0.1)] * 20)
    again = Prequential(window=50, fading=0.99)
    again.load_state_dict(json.loads(json.dumps(score.state_dict())))

    assert scored(again, [(3, 1 / 3)] * 9).sums() == scored(score, [(3, 1 / 3)] * 9).sums()


@pytest.mark.parametrize("wrong", [{"window": 0}, {"fading": 0.0}, {"fading": 1.1}])
def test_impossible_scores_are_refused(wrong):
    with pytest.raises(SettingsError, match=r"take 2048 and 0\.999"):
        Prequential(**wrong)
