"""Messages under way: who is asked anew, who is lost, and what a grid that fails does to a round."""

import json
import threading

from flwr.app import ConfigRecord, Message, RecordDict
from numbered_streams import ROUND_ROWS, Site, SlowGrid, first_state, loop_on

from fedmb.federation.exchange import Exchange


def messages_to(*nodes):
    content = RecordDict({"config": ConfigRecord()})
    return [Message(content, dst_node_id=node, message_type="train", group_id="1") for node in nodes]


def test_a_node_that_never_answers_is_lost_after_the_deadline_and_asked_anew(tmp_path):
    busy, lost = (Site(tmp_path, name).append(rounds=3) for name in ("busy", "lost"))
    grid = SlowGrid([busy, lost])
    grid.held = {"lost"}

    state = loop_on(grid, {"count": 3, "deadline_seconds": 0.2}).run(first_state())

    assert [number for number, name in grid.asked if name == "lost"] == [1, 2, 3]
    assert busy.learnt_rows(state.ledger) == 3 * ROUND_ROWS


def test_a_client_that_was_lost_and_comes_back_is_learnt_from_its_ledger(tmp_path):
    busy, away = (Site(tmp_path, name).append(rounds=4) for name in ("busy", "away"))
    grid = SlowGrid([busy, away])
    grid.held = {"away"}

    def back(state, report):
        if report.round == 2:
            grid.held = set()

    state = loop_on(grid, {"count": 4, "deadline_seconds": 0.2}, on_round=back).run(first_state())

    assert away.learnt_rows(state.ledger) == 2 * ROUND_ROWS  # rounds 3 and 4; what it sent for 1 and 2 was late


def test_all_nodes_at_work_are_waited_for_and_nobody_is_asked_twice(tmp_path):
    slow = Site(tmp_path, "slow").append(rounds=3)
    grid, stop, pushed = SlowGrid([slow]), threading.Event(), []
    grid.held = {"slow"}
    push = grid.push_messages

    def let_go_once_the_round_is_tried_again(messages):
        pushed.append(len(messages))
        ids = push(messages)
        if len(pushed) == 2:
            grid.held = set()
        return ids

    grid.push_messages = let_go_once_the_round_is_tried_again
    rounds = {"count": "forever", "closing": {"seconds": 0.2, "grace_seconds": 0.1}}
    state = loop_on(grid, rounds, on_round=lambda state, report: stop.set(), stop=stop).run(first_state())

    assert pushed == [1, 0]
    assert slow.learnt_rows(state.ledger) == ROUND_ROWS  # made no version meanwhile, so what was late still fits


def test_messages_that_a_grid_could_not_send_are_not_waited_for(tmp_path):
    class Failing(SlowGrid):
        def push_messages(self, messages):
            return [None, *list(super().push_messages(messages))[1:]]

    exchange = Exchange(Failing([Site(tmp_path, "a"), Site(tmp_path, "b")]), 60)
    exchange.push(messages_to(10, 11))

    assert exchange.busy_nodes() == {11}


def test_a_grid_out_of_reach_ends_the_wait_at_once(tmp_path):
    class Unreachable(SlowGrid):
        def push_messages(self, messages):
            return []

    exchange = Exchange(Unreachable([Site(tmp_path, "a")]), 60)
    exchange.push(messages_to(10))

    assert list(exchange.arrivals(60)) == []
    assert not exchange.is_open


def test_a_known_client_is_not_told_who_rests(tmp_path):
    busy, quiet = Site(tmp_path, "busy").append(rounds=3), Site(tmp_path, "quiet")
    grid, told = SlowGrid([busy, quiet]), []
    push = grid.push_messages

    def reading(messages):
        messages = list(messages)
        told.extend(json.loads(str(one.content.config_records["config"]["fedmb-terms"]))["resting"] for one in messages)
        return push(messages)

    grid.push_messages = reading
    stop = threading.Event()

    def closed(state, report):
        if report.round == 3:
            stop.set()

    loop_on(grid, {"count": "forever"}, on_round=closed, stop=stop).run(first_state())

    assert [name for _, name in grid.asked] == ["busy", "quiet", "busy", "busy", "quiet"]
    assert not any(told)
