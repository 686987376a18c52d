"""Clients with nothing new are left out for ever longer, and nobody waits for them."""

import json
import logging
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_streams import ROUND_ROWS, Recording, Site, SlowGrid, first_state, ledger_at, loop_on

from fedmb.errors import NotEnoughData
from fedmb.federation import checkpoint, silence
from fedmb.federation.silence import NewsWait, Silence


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(silence, "FIRST_LOOK_SECONDS", 0.01)


def test_a_silent_client_is_asked_after_one_then_two_then_four_rounds_up_to_the_bound():
    one, asked = Silence(longest=4), []
    for number in range(1, 30):
        if "a" not in one.resting(number):
            asked.append(number)
            one.observe(number, silent={"a"}, heard=())

    assert asked == [1, 3, 6, 11, 16, 21, 26]


def test_a_client_that_has_rows_again_is_asked_in_every_round():
    one = Silence(longest=16)
    for number in (1, 3, 6):
        one.observe(number, silent={"a"}, heard={"b"})
    one.observe(11, silent=(), heard={"a"})

    assert not any(one.resting(number) for number in range(12, 40))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_how_often_a_round_is_tried_changes_nothing(tries):
    once, often = Silence(longest=8), Silence(longest=8)
    for number, count in enumerate(tries, start=1):
        once.observe(number, silent={"a"}, heard=())
        for _ in range(count):
            often.observe(number, silent={"a"}, heard=())

    assert once.state_dict() == often.state_dict()


def test_without_a_pause_everyone_is_asked_in_every_round():
    one = Silence(longest=0)
    one.observe(1, silent={"a"}, heard=())

    assert one.resting(2) == ()


def test_the_first_of_several_looks_is_logged(caplog):
    wait, stop = NewsWait(), threading.Event()
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            wait.wait(stop, {"b", "a"})
    wait.end()

    assert [line.message for line in caplog.records] == ["nothing new, waiting clients=a,b"]
    assert not wait.is_on


def test_looks_grow_rarer_and_end_with_the_run(monkeypatch):
    monkeypatch.setattr(silence, "LONGEST_LOOK_SECONDS", 0.04)
    wait, stop, waits = NewsWait(), threading.Event(), []
    stop.wait = waits.append
    for _ in range(5):
        wait.wait(stop, ())

    assert waits == [0.01, 0.02, 0.04, 0.04, 0.04]


def never_ending(grid, stop):
    """A run without end and its reports, in a thread of its own; `stop` ends it."""
    strategy, reports, states = Recording(), [], []

    def closed(state, report):
        reports.append(report)
        states.append(state)

    loop = loop_on(grid, {"count": "forever"}, strategy=strategy, on_round=closed, stop=stop)
    thread = threading.Thread(target=lambda: states.append(loop.run(first_state())))
    thread.start()
    return thread, strategy, reports, states


def until(condition, seconds=30):
    deadline, nap = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        nap.wait(0.005)


def test_a_silent_client_among_busy_ones_does_not_delay_rounds(tmp_path):
    busy, quiet = Site(tmp_path, "busy").append(rounds=12), Site(tmp_path, "quiet", patience_seconds=60)
    grid, stop = SlowGrid([busy, quiet]), threading.Event()
    thread, strategy, reports, states = never_ending(grid, stop)
    until(lambda: len(reports) == 12)
    stop.set()
    thread.join(10)

    assert max(report.seconds for report in reports) < 5  # its patience is a minute
    assert all(report.skipped == ("quiet",) and report.clients == 1 for report in reports)
    assert all(report.to_json()["skipped"] == ["quiet"] for report in reports)
    assert [number for number, name in grid.asked if name == "quiet" and number < 12] == [1, 3, 6, 11]
    assert busy.learnt_rows(states[-1].ledger) == busy.appended
    assert strategy.chained()[busy.partition].start == (0, 0)


def test_a_stream_that_dries_up_amid_a_round_costs_it_no_patience(tmp_path):
    site, stop, reports = Site(tmp_path, "a", patience_seconds=60).append(), threading.Event(), []
    half = ledger_at(a=ROUND_ROWS // 2)
    state = replace(first_state(half), positions={"a": {"source": {"ledger": half.to_json()}}})

    def closed(state, report):
        reports.append(report)
        stop.set()

    rounds = {"count": "forever", "closing": {"silence_seconds": 0.05}}
    last = loop_on(SlowGrid([site]), rounds, on_round=closed, stop=stop).run(state)

    assert reports[0].seconds < 5
    assert reports[0].rows["stream"] == ROUND_ROWS // 2
    assert site.learnt_rows(last.ledger) == ROUND_ROWS


def test_nobody_with_anything_new_makes_no_version_and_rows_that_come_are_learnt(tmp_path):
    one, other = Site(tmp_path, "one").append(), Site(tmp_path, "other").append()
    grid, stop = SlowGrid([one, other]), threading.Event()
    thread, strategy, reports, states = never_ending(grid, stop)
    until(lambda: len(grid.asked) > 12)  # round 2 was tried several times
    before = len(reports)
    other.append()
    until(lambda: len(reports) == 2)
    stop.set()
    thread.join(10)

    assert before == 1
    assert (reports[1].skipped, reports[1].rows["stream"]) == (("one",), ROUND_ROWS)
    assert states[-1].version == 2
    assert strategy.chained()[other.partition].stop == states[-1].ledger[other.partition] == (other.appended / 4, 0)


def test_a_run_without_end_stops_while_it_waits(tmp_path):
    stop = threading.Event()
    grid = SlowGrid([Site(tmp_path, "a")])
    thread, _, reports, states = never_ending(grid, stop)
    until(lambda: grid.asked)
    stop.set()
    thread.join(10)

    assert not thread.is_alive()
    assert (reports, states[-1].version) == ([], 0)


def test_a_run_without_end_still_ends_when_all_its_clients_fail(tmp_path):
    site = Site(tmp_path, "a").append()
    site.trainer.source.close()

    def broken(*_, **__):
        raise NotEnoughData("the disk of a is gone")

    site.trainer.run = broken

    with pytest.raises(NotEnoughData, match="disk of a is gone"):
        loop_on(SlowGrid([site]), {"count": "forever"}).run(first_state())


def test_a_round_without_any_usable_reply_makes_no_version_of_a_run_without_end(tmp_path):
    site, stop, reports = Site(tmp_path, "a").append(), threading.Event(), []
    learn, failures = site.trainer.run, iter([True, True])

    def failing(*positional, **named):
        if next(failures, False):
            raise NotEnoughData("the disk of a is away")
        return learn(*positional, **named)

    def closed(state, report):
        reports.append(report)
        stop.set()

    site.trainer.run = failing
    state = loop_on(SlowGrid([site]), {"count": "forever"}, on_round=closed, stop=stop).run(first_state())

    assert [(report.round, report.rows["stream"]) for report in reports] == [(1, ROUND_ROWS)]
    assert state.version == 1


def test_a_resumed_run_leaves_out_the_same_clients(tmp_path):
    """Rows come for the quiet site while it is left out; stopping there must not let it learn them earlier."""

    def learnt(place, cut):
        busy, quiet = Site(place, "busy").append(rounds=9), Site(place, "quiet")
        state, who = first_state(), []

        def closed(state, report):
            if state.version == 3:
                quiet.append()
            who.append((report.round, report.skipped, report.rows["stream"]))
            if state.version in {cut, 9}:
                stop.set()

        while state.version < 9:
            stop = threading.Event()
            grid = SlowGrid([busy, quiet])  # a new process knows no client behind any node
            state = loop_on(grid, {"count": "forever"}, on_round=closed, stop=stop).run(state)
            state = checkpoint.from_bytes(checkpoint.to_bytes(state))
        return who, checkpoint.to_bytes(state)

    whole = learnt(tmp_path / "whole", 9)

    for cut in range(1, 9):
        assert learnt(tmp_path / str(cut), cut) == whole
    assert json.loads(json.dumps(whole[0][5]))[1:] == [[], 2 * ROUND_ROWS]  # round 6 is the quiet site's next
