"""What closes a round early, and what becomes of those that come later."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numbered_streams import ROUND_ROWS, Recording, Site, SlowGrid, first_state, loop_on
from pydantic import ValidationError

from fedmb.federation.client import client_app
from fedmb.federation.closing import Closing
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update


def update(rows=0, alarms=None):
    sums = {} if alarms is None else {"alarms": float(alarms)}
    return Update({"w": np.zeros(1)}, 1.0, 0, {"a": {}}, sums=sums, rows={"stream": rows, "replay": 100})


def test_only_fresh_stream_rows_close_a_round():
    closing = Closing(rows=30)

    assert closing.reason([update(10), update(19)]) is None
    assert closing.reason([update(10), update(20)]) == "rows"


def test_an_alarm_closes_a_round_where_drift_is_asked_for():
    assert Closing(drift=True).reason([update(), update(alarms=1)]) == "drift"
    assert Closing(drift=True).reason([update(alarms=0)]) is None
    assert Closing().reason([update(alarms=1)]) is None


def test_clients_get_their_seconds_and_the_server_waits_a_little_longer():
    assert Closing(seconds=30, grace_seconds=5).wait_seconds(600) == 35
    assert Closing(seconds=30).wait_seconds(20) == 20
    assert Closing().wait_seconds(600) == 600


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"rows": 0}, {"grace_seconds": -1}, {"seconds": math.nan}])
def test_settings_that_close_every_round_at_once_are_refused(wrong):
    with pytest.raises(ValidationError):
        Closing(**wrong)


def test_a_late_reply_is_dropped_by_name_and_its_rows_are_learnt_once_all_the_same(tmp_path):
    busy, slow = (Site(tmp_path, name).append(rounds=4) for name in ("busy", "slow"))
    grid, strategy, reports = SlowGrid([busy, slow]), Recording(), []
    grid.held = {"slow"}

    def let_go(state, report):
        reports.append(report)
        grid.held = set()

    loop = loop_on(grid, {"count": 4, "closing": {"rows": ROUND_ROWS}}, strategy=strategy, on_round=let_go)
    state = loop.run(first_state())

    assert [report.closed_by for report in reports][:2] == ["rows", "rows"]
    assert "slow" not in reports[0].rejected
    assert "must start from version 1, got 0; it came late" in reports[1].rejected["slow"]
    assert [number for number, name in grid.asked if name == "slow"] == [1, 3, 4]  # not while it was at work
    assert strategy.chained().keys() == {busy.partition, slow.partition}
    assert all(span.start == (0, 0) and span.stop == state.ledger[p] for p, span in strategy.chained().items())
    assert slow.learnt_rows(state.ledger) == 2 * ROUND_ROWS
    assert sum(report.rows["stream"] for report in reports) == sum(
        site.learnt_rows(state.ledger) for site in (busy, slow)
    )


def test_an_alarm_closes_the_round_while_another_client_is_at_work(tmp_path):
    drifting, slow = (Site(tmp_path, name).append(rounds=2) for name in ("drifting", "slow"))
    grid, reports, terms = SlowGrid([drifting, slow]), [], []
    grid.held = {"slow"}
    learn = drifting.trainer.run

    def alarmed(*positional, **named):
        terms.append(named["terms"])
        learnt = learn(*positional, **named)
        return replace(learnt, sums={**learnt.sums, "alarms": 1.0})

    drifting.trainer.run = alarmed
    loop_on(grid, {"count": 1, "closing": {"drift": True}}, on_round=lambda state, report: reports.append(report)).run(
        first_state()
    )

    assert [(report.closed_by, report.clients) for report in reports] == [("drift", 1)]
    assert terms[0].until_alarm


def test_time_closes_a_round_for_clients_that_do_not_answer(tmp_path):
    busy, slow = (Site(tmp_path, name).append(rounds=2) for name in ("busy", "slow"))
    grid, reports = SlowGrid([busy, slow]), []
    grid.held = {"slow"}
    times = {"seconds": 0.2, "grace_seconds": 0.1}

    loop = loop_on(grid, {"count": 1, "closing": times}, on_round=lambda state, report: reports.append(report))
    state = loop.run(first_state())

    assert (reports[0].closed_by, reports[0].clients) == ("time", 1)
    assert 0.3 <= reports[0].seconds < 5
    assert (busy.learnt_rows(state.ledger), slow.learnt_rows(state.ledger)) == (ROUND_ROWS, 0)


def test_a_client_does_not_wait_for_rows_beyond_the_rounds_seconds(tmp_path):
    site, reports = Site(tmp_path, "a", patience_seconds=60), []
    site.append()
    half = {"count": 2, "closing": {"seconds": 0.3}}

    state = loop_on(SlowGrid([site]), half, on_round=lambda state, report: reports.append(report)).run(first_state())

    assert reports[1].seconds < 5  # the log held nothing more, and its patience is a minute
    assert site.learnt_rows(state.ledger) == ROUND_ROWS == site.appended


def test_where_clients_run_one_by_one_each_is_the_first_in_turn(tmp_path):
    sites = [Site(tmp_path, name).append(rounds=6) for name in "abc"]
    app = client_app(lambda context: sites[context.node_id - 1].trainer)
    reports = []

    loop = loop_on(
        InProcessGrid(app, {number: {} for number in (1, 2, 3)}),
        {"count": 6, "closing": {"rows": 1}},
        on_round=lambda state, report: reports.append(report),
    )
    state = loop.run(first_state())

    assert [site.learnt_rows(state.ledger) for site in sites] == [2 * ROUND_ROWS] * 3
    assert not any(report.rejected for report in reports)  # what nobody had begun was taken back
