"""What was said when asked is scored when the answer comes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import evaluate, linear_model, metrics

from fedmb.errors import SettingsError, ShapeError
from fedmb.telemetry.delayed_score import DelayedScore
from fedmb.telemetry.prequential import Prequential


def squared(predictions, answers):
    return {"loss": (predictions - answers) ** 2}


def score(horizon_rows=100, figures=squared):
    return DelayedScore(figures, Prequential(window=1000), horizon_rows=horizon_rows)


def test_predictions_wait_for_their_answers_in_any_order():
    one = score()
    one.ask(np.array([1, 2, 3]), np.array([0.5, 1.0, 2.0]))

    assert one.answer(np.array([3, 1]), np.array([2.0, 1.0])) == 2
    assert one.score.windowed() == {"units": 2.0, "loss": 0.25}
    assert (len(one), one.orphans, one.expired) == (1, 0, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=80), st.integers(1, 6))
def test_every_prediction_is_scored_waits_or_expired_and_every_answer_scored_or_orphan(steps, horizon):
    one, scored = score(horizon), 0
    for is_question, key in steps:
        if is_question:
            one.ask(np.array([key]), np.array([1.0]))
        else:
            scored += one.answer(np.array([key]), np.array([1.0]))

        assert len(one) <= horizon
    assert one.asked == scored + len(one) + one.expired == sum(is_question for is_question, _ in steps)
    assert scored + one.orphans == sum(not is_question for is_question, _ in steps)


def test_the_score_is_that_of_river_under_the_same_delay():
    random, delay = np.random.default_rng(0), 7
    x, y = random.standard_normal(300), random.standard_normal(300)
    model = linear_model.LinearRegression()
    rows = [({"x": float(x[n]), "n": n}, float(y[n])) for n in range(300)]
    theirs = evaluate.progressive_val_score(rows, model, metrics.MSE(), moment="n", delay=delay)

    again, ours = linear_model.LinearRegression(), score()
    for now in range(300 + delay):
        due = now - delay
        if due >= 0 and due < 300:
            ours.answer(np.array([due]), y[due : due + 1])
            again.learn_one(rows[due][0], rows[due][1])
        if now < 300:
            ours.ask(np.array([now]), np.array([again.predict_one(rows[now][0])]))
    sums = ours.score.windowed()

    assert sums["loss"] / sums["units"] == pytest.approx(theirs.get(), rel=1e-9)


def test_stopping_between_question_and_answer_gives_the_same_bits():
    whole, stopped = score(), score()
    for one in (whole, stopped):
        one.ask(np.array(["a", "b"]), np.float32([[1 / 3, 0.1], [2 / 3, 0.2]]).sum(1))
    resumed = score()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for one in (whole, resumed):
        one.answer(np.array(["b", "x"]), np.array([1.0, 1.0]))

    assert whole.state_dict() == resumed.state_dict()
    assert resumed.orphans == 1


def test_a_state_of_thousands_of_predictions_stays_small():
    one = score(8192)
    one.ask(np.arange(8192), np.random.default_rng(0).standard_normal((8192, 10)).astype(np.float32))

    assert len(json.dumps(one.state_dict())) < 550_000


def _asked_twice():
    one = score()
    one.ask(np.array([0, 1]), np.zeros(2))
    return one


def test_wrong_shapes_and_horizons_are_refused():
    with pytest.raises(ShapeError, match="one key a row"):
        score().ask(np.array([1]), np.zeros(2))
    means = score(figures=lambda predictions, answers: {"loss": np.float64(1.0)})
    means.ask(np.array([1]), np.zeros(1))
    with pytest.raises(ShapeError, match="one value a row"):
        means.answer(np.array([1]), np.zeros(1))
    with pytest.raises(ShapeError, match=r"of one kind, float64 of shape \(\), got float64 of shape \(2,\)"):
        _asked_twice().ask(np.array([2]), np.zeros((1, 2)))
    with pytest.raises(SettingsError, match="1 or more rows, got 0"):
        score(0)
