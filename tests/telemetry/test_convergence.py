import math

import pytest

from fedmb.errors import SettingsError
from fedmb.telemetry.convergence import Convergence, Stopping
from fedmb.telemetry.events import RoundReport


def reports(*values, metric="accuracy"):
    return [RoundReport(k + 1, 1.0, 2.0, {metric: value}, {}, None, 1) for k, value in enumerate(values)]


def stopped_at(stopping, *values, metric="accuracy"):
    watch = Convergence(stopping)
    for report in reports(*values, metric=metric):
        reason = watch.observe(report)
        if reason:
            return report.round, reason
    return None


def test_a_run_stops_in_the_round_that_reaches_the_target_and_says_so():
    assert stopped_at(Stopping(target=0.9), 0.5, 0.91, 0.99) == (2, "accuracy 0.91 reached the target 0.9")


def test_a_loss_reaches_its_target_from_above():
    assert stopped_at(Stopping(metric="loss", higher_is_better=False, target=0.2), 0.5, 0.3, 0.2, metric="loss")[0] == 3


def test_a_run_stops_when_its_patience_is_over():
    number, reason = stopped_at(Stopping(patience=3), 0.5, 0.8, 0.7, 0.8, 0.79, 0.9)

    assert number == 5
    assert reason == "accuracy is best at 0.8 in round 2, 3 rounds ago"


def test_a_change_too_small_to_count_does_not_renew_the_patience():
    values = [0.5, 0.5005, 0.501, 0.5015]

    assert stopped_at(Stopping(patience=3, min_change=0.01), *values)[0] == 4
    assert stopped_at(Stopping(patience=3), *values) is None


def test_a_value_that_is_no_number_is_never_best():
    assert stopped_at(Stopping(patience=2), math.nan, 0.5, math.nan, math.nan) == (
        4,
        "accuracy is best at 0.5 in round 2, 2 rounds ago",
    )


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_resumed_watch_stops_where_it_would_have_stopped(cut):
    values = reports(0.5, 0.8, 0.7, 0.8, 0.79, 0.9)
    first = Convergence(Stopping(patience=3))
    for report in values[:cut]:
        assert first.observe(report) is None
    second = Convergence(Stopping(patience=3))
    second.load_state_dict(first.state_dict())
    reasons = [second.observe(report) for report in values[cut:]]

    assert [bool(reason) for reason in reasons].index(True) == 4 - cut


def test_a_metric_that_the_run_does_not_have_is_named_with_those_it_has():
    with pytest.raises(SettingsError, match=r"'accuracy', 'train_loss'.*got 'f1'"):
        Convergence(Stopping(metric="f1", target=1.0)).observe(reports(0.5)[0])


def test_without_target_or_patience_a_run_goes_on():
    assert stopped_at(Stopping(), 0.1, 0.1, 0.1) is None


@pytest.mark.parametrize("idle", [{"metric": "loss"}, {"higher_is_better": False}, {"min_change": 0.1}])
def test_what_nothing_would_read_is_refused(idle):
    with pytest.raises(ValueError, match="neither target nor patience; set one of them, or remove"):
        Stopping(**idle)
    Stopping(patience=2, **idle)


def test_a_metric_that_the_run_does_not_have_is_refused_before_it_trains():
    with pytest.raises(SettingsError, match=r"must be one of \['accuracy', 'loss', 'train_loss'\], got 'acuracy'"):
        Convergence(Stopping(patience=2, metric="acuracy")).check(lambda: {"accuracy": 0.1, "loss": 2.0})
    with pytest.raises(SettingsError, match=r"must be one of \['train_loss'\]"):
        Convergence(Stopping(patience=2)).check(None)


@pytest.mark.parametrize("stopping", [Stopping(), Stopping(patience=2, metric="train_loss", higher_is_better=False)])
def test_no_model_is_scored_where_its_scores_are_not_watched(stopping):
    Convergence(stopping).check(lambda: pytest.fail("scored"))


def test_a_target_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Stopping(target=math.inf)
