"""Who is asked, when a round closes, and what a round without a quorum leaves."""

import logging
import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from numbered_streams import ROUND_ROWS, Site, SlowGrid, first_state, loop_on
from pydantic import ValidationError
from test_late import Moving, moving, run

from fedmb.errors import NotEnoughData, SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.simulation.population import Simulation


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"over_sampling": 0.3}, "lower fraction_train"),
        (
            {"over_sampling": 0.3, "fraction_train": 0.5, "late": {"policy": "discount", "buffer": 2}},
            "leave one out",
        ),
        ({"quorum": 3, "late": {"policy": "discount", "buffer": 2}}, "never has a quorum of 3"),
        ({"deadline_medians": 1}, "greater than 1"),
        ({"quorum": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Rounds(**wrong)


@pytest.mark.parametrize(
    "settings",
    [
        lambda rounds: ServerSettings(rounds={"min_clients": 4, **rounds}),
        lambda rounds: Simulation(private={"clients": 4}, streamed={"clients": 0}, rounds=rounds),
    ],
    ids=["deployed", "simulated"],
)
def test_a_quorum_that_rounds_cannot_have_is_refused_at_once(settings):
    settings({"quorum": 4})
    settings({"quorum": 3, "fraction_train": 0.5, "over_sampling": 0.5})
    for rounds in ({"quorum": 5}, {"quorum": 3, "fraction_train": 0.5}):
        with pytest.raises((ValidationError, SettingsError), match=r"lower rounds\.quorum"):
            settings(rounds)


def crowd(count, held=()):
    grid = moving(**{f"c{k}": (1.0 + k, 1.0) for k in range(count)})
    grid.held = set(held)
    return grid


def test_more_are_asked_than_needed_and_the_first_ones_count():
    rounds = {"fraction_train": 0.3, "over_sampling": 0.5, "deadline_seconds": 20}
    strategy = MiniBatchFedAvg(fraction_train=0.3, over_sampling=0.5, seed=3)
    grid = crowd(10)
    asked = {name for _, name in asked_in_first_round(crowd(10), rounds)}
    slow = sorted(asked)[:2]
    _, reports = run(grid, 1, strategy, held=dict.fromkeys(slow, 9), **rounds)

    assert len(asked) == 5  # 3 are needed, and half as many more
    assert reports[0].closed_by == "enough"
    assert reports[0].accepted == tuple(sorted(asked - {*slow}))
    assert not reports[0].rejected


def asked_in_first_round(grid, rounds):
    run(grid, 1, MiniBatchFedAvg(fraction_train=0.3, over_sampling=0.5, seed=3), **rounds)
    return grid.asked


def test_who_is_asked_follows_from_seed_and_round():
    rounds = {"fraction_train": 0.3, "over_sampling": 0.5}

    assert asked_in_first_round(crowd(10), rounds) == asked_in_first_round(crowd(10), rounds)


def test_where_clients_run_one_by_one_over_sampling_trains_no_more_than_are_needed():
    trained = []

    class Noted(Moving):
        def run(self, *given, **told):
            trained.append(self.client)
            return super().run(*given, **told)

    clients = {f"c{k}": Noted(f"c{k}", 1.0, 1.0) for k in range(10)}
    app = client_app(lambda context: clients[context.node_config["client"]])
    grid = InProcessGrid(app, {10 + k: {"client": f"c{k}"} for k in range(10)})
    _, reports = run_on(grid, 40, fraction_train=0.3, over_sampling=1.0)

    assert len(trained) == 40 * 3
    assert {report.clients for report in reports} == {3}
    assert set(trained) == clients.keys()


def run_on(grid, count, **rounds):
    reports = []
    strategy = MiniBatchFedAvg(
        fraction_train=rounds.get("fraction_train", 1.0), over_sampling=rounds.get("over_sampling", 0.0)
    )
    loop = RoundLoop(grid, strategy, Rounds(count=count, **rounds), on_round=lambda state, one: reports.append(one))
    return loop.run(checkpoint.ServerState(0, {"w": np.zeros(4, np.float32)})), reports


def test_a_round_without_a_quorum_keeps_the_model_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        states, reports = run(crowd(3), 2, held={"c1": 1, "c2": 1}, quorum=2)

    assert np.array_equal(states[0].arrays["w"], np.zeros(4))
    assert (states[0].positions, states[0].learnt) == ({}, {})
    assert "a quorum of 2 clients, got 1; its rows are learnt again" in reports[0].rejected["c0"]
    assert "previous model kept round=1" in caplog.text
    assert reports[1].clients >= 2 or reports[1].rejected


def test_rows_of_a_round_without_a_quorum_are_learnt_again(tmp_path):
    one, two = (Site(tmp_path, name).append(rounds=4) for name in ("one", "two"))
    grid, reports = SlowGrid([one, two]), []
    grid.held = {"two"}

    def closed(state, report):
        reports.append(report)
        grid.held = set()

    rounds = {"count": 4, "quorum": 2, "deadline_seconds": 0.3}
    state = loop_on(grid, rounds, on_round=closed).run(first_state())

    assert reports[0].clients == 0
    assert sum(report.rows.get("stream", 0) for report in reports) == sum(
        site.learnt_rows(state.ledger) for site in (one, two)
    )
    assert one.learnt_rows(state.ledger) >= 2 * ROUND_ROWS


def test_a_client_with_nothing_new_is_part_of_the_quorum(tmp_path):
    busy, quiet = Site(tmp_path, "busy").append(rounds=3), Site(tmp_path, "quiet")
    event, reports = threading.Event(), []

    def closed(state, report):
        reports.append(report)
        if report.round == 3:
            event.set()

    loop = loop_on(SlowGrid([busy, quiet]), {"count": "forever", "quorum": 2}, on_round=closed, stop=event)
    state = loop.run(first_state())

    assert [report.clients for report in reports] == [1, 1, 1]
    assert busy.learnt_rows(state.ledger) == 3 * ROUND_ROWS


def test_rows_close_no_round_before_its_quorum(tmp_path):
    sites = [Site(tmp_path, name).append(rounds=2) for name in "abc"]
    app = client_app(lambda context: sites[context.node_id - 1].trainer)
    reports = []
    rounds = {"count": 2, "quorum": 2, "closing": {"rows": 1}}
    loop_on(InProcessGrid(app, {1: {}, 2: {}, 3: {}}), rounds, on_round=lambda state, one: reports.append(one)).run(
        first_state()
    )

    assert [(report.closed_by, report.clients) for report in reports] == [("rows", 2), ("rows", 2)]


def test_three_rounds_without_a_quorum_end_the_run_with_the_reason():
    with pytest.raises(NotEnoughData, match=r"3 rounds in a row .* a quorum of 2 clients, got 1"):
        run(crowd(2), 9, held={"c1": 99}, quorum=2, deadline_seconds=0.1)


def test_a_dead_client_costs_a_few_usual_times_and_not_the_deadline(tmp_path):
    started = time.monotonic()
    rounds = {"deadline_seconds": 60.0, "deadline_least_seconds": 0.5, "deadline_medians": 2.0}
    grid, held = crowd(2), {}
    states, reports = [], []

    def closed(state, report):
        reports.append(report)
        grid.held = {"c1"} if report.round >= 2 else set(held)

    told = Rounds(count=5, **rounds)
    RoundLoop(grid, MiniBatchFedAvg(), told, on_round=closed, memory=tmp_path).run(
        checkpoint.ServerState(0, {"w": np.zeros(4, np.float32)})
    )

    assert [report.clients for report in reports] == [2, 2, 1, 1, 1]
    assert [report.closed_by for report in reports] == ["replies", "replies", "time", "replies", "replies"]
    assert 0.5 <= reports[2].seconds < 20
    assert time.monotonic() - started < 40
    assert not states
    resumed = RoundLoop(grid, MiniBatchFedAvg(), told, on_round=closed, memory=tmp_path)
    assert resumed._times.wait_seconds(["c0", "c1"]) < 60


def test_after_a_round_without_a_model_the_next_waits_until_the_deadline():
    grid = crowd(1)
    waits = []

    class Timed(RoundLoop):
        def _ask(self, state, *, everyone, is_patient):
            waits.append(is_patient)
            return super()._ask(state, everyone=everyone, is_patient=is_patient)

    def closed(state, report):
        grid.held = {"c0"} if report.round == 1 else set()

    rounds = Rounds(count=3, deadline_seconds=0.3)
    Timed(grid, MiniBatchFedAvg(), rounds, on_round=closed).run(
        checkpoint.ServerState(0, {"w": np.zeros(4, np.float32)})
    )

    assert waits == [False, False, True]


class Shuffled(SlowGrid):
    """What has arrived is pulled in an order of its own."""

    order = random.Random(1)

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        self.order.shuffle(replies)
        return replies


@pytest.mark.parametrize(
    "rounds",
    [
        {},
        {"late": {"policy": "discount"}},
        {"late": {"policy": "discount", "buffer": 2}, "quorum": 2},
        {"quorum": 3},
    ],
    ids=["plain", "discount", "buffer", "quorum"],
)
def test_replies_shuffled_a_hundred_ways_give_one_digest(rounds, monkeypatch):
    """Which replies come before a round closes is for time to say; in which order they come changes nothing."""
    monkeypatch.setattr("fedmb.federation.exchange._PULL_SECONDS", 0.001)
    digests = set()
    for _ in range(100):
        clients = [SimpleNamespace(name=f"c{k}", trainer=Moving(f"c{k}", 0.1 + k / 7, 1.0 + k)) for k in range(5)]
        told = {"closing": {"seconds": 0.01, "grace_seconds": 0}, **rounds}  # what is there comes with the first look
        states, reports = run(Shuffled(clients), 3, held={"c3": 1, "c4": 1}, **told)
        digests.add(checkpoint.to_bytes(states[-1]))

    assert len(digests) == 1
    assert reports[0].accepted == ("c0", "c1", "c2")
    assert ("c3" in reports[1].late) == ("late" in rounds)
