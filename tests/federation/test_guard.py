"""One bad client among ten: refused by name, and the round is that of the other nine, bit for bit."""

import logging
from functools import partial

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flowers
from malformed_updates import BAD, CLIENTS, KINDS, SHAPE, fails, grid_of, model, run, start

from fedmb.aggregation.by_element import TrimmedMean
from fedmb.federation import checkpoint, guard
from fedmb.federation.client import reply_to
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update


@pytest.fixture(scope="module")
def honest():
    """The run in which the bad client fails in round 2, for each strategy."""
    return {name: run(grid_of(fails), make())[0] for name, make in STRATEGIES.items()}


STRATEGIES = {"mean": MiniBatchFedAvg, "Flower FedAvg": flowers.FedAvg}
FATAL = [*KINDS][:13]  # to Flower's FedAvg: the reference's
TRIED = [*((kind, "mean") for kind in KINDS), *((kind, "Flower FedAvg") for kind in FATAL)]


@pytest.mark.parametrize(("kind", "strategy"), TRIED)
def test_a_malformed_update_is_refused_by_name_and_leaves_no_trace(kind, strategy, honest, caplog):
    with caplog.at_level(logging.WARNING):
        state, reports = run(grid_of(KINDS[kind]), STRATEGIES[strategy]())

    assert [[*report.rejected] for report in reports] == [[], [BAD]]
    assert reports[1].clients == CLIENTS - 1
    assert f"update rejected round=2 client={BAD} reason={reports[1].rejected[BAD]}" in caplog.text
    assert checkpoint.to_bytes(state) == checkpoint.to_bytes(honest[strategy])


def test_twenty_kinds_are_tried_and_more():
    assert len(KINDS) >= 20


def test_a_reply_that_comes_twice_counts_once():
    class Echo(InProcessGrid):
        def pull_messages(self, message_ids):
            for reply in super().pull_messages(message_ids):
                yield reply
                yield reply

    state, reports = run(grid_of(fails, Echo), count=1)
    once, _ = run(grid_of(fails), count=1)

    assert checkpoint.to_bytes(state) == checkpoint.to_bytes(once)
    assert all("is in already" in reason for reason in reports[0].rejected.values())
    assert len(reports[0].rejected) >= CLIENTS - 1  # the last one's echo comes when the round has closed


def test_what_nobody_foresaw_is_a_refusal_too(monkeypatch, caplog):
    read = guard.read_update

    def failing(message, *rest):
        if message.content.config_records["update"]["client"] == BAD:
            raise ZeroDivisionError("somebody's mistake")
        return read(message, *rest)

    monkeypatch.setattr(guard, "read_update", failing)
    with caplog.at_level(logging.WARNING):
        state, reports = run(grid_of(lambda reply: None), count=1)

    assert "got ZeroDivisionError: somebody's mistake" in reports[0].rejected[BAD]
    assert "in failing" in caplog.text  # with its traceback
    assert state.version == 1
    assert reports[0].clients == CLIENTS - 1


class Unreadable(InProcessGrid):
    """A grid that answers with a list, and cannot make a message of what one node sent."""

    def pull_messages(self, message_ids):
        ids = sorted(message_ids)
        replies = list(super().pull_messages(ids))
        if any(one.metadata.src_node_id == 10 + CLIENTS - 1 for one in replies):
            self._pushed |= {
                one.metadata.reply_to_message_id: self.before[one.metadata.reply_to_message_id] for one in replies
            }
            raise KeyError("NoSuchRecord")
        return replies

    def push_messages(self, messages):
        ids = list(super().push_messages(messages))
        self.before = dict(self._pushed)
        return ids


def test_a_reply_that_the_grid_cannot_read_is_its_nodes_and_nobody_elses():
    state, reports = run(grid_of(lambda reply: None, Unreadable), count=2)

    assert state.version == 2
    assert [[*report.rejected] for report in reports] == [["node 19"], ["node 19"]]
    assert "got KeyError: 'NoSuchRecord'" in reports[0].rejected["node 19"]
    assert [report.clients for report in reports] == [CLIENTS - 1] * 2


def test_a_line_that_is_down_is_nobodys_reply():
    class Down(InProcessGrid):
        def pull_messages(self, message_ids):
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError):
        run(grid_of(fails, Down))


@pytest.mark.parametrize("kind", ["NaN", "in another's name", "oversize"])
def test_a_bad_client_that_was_refused_is_one_fewer_for_the_rule(kind):
    alone, _ = run(grid_of(KINDS[kind]), MiniBatchFedAvg(TrimmedMean(1)))
    failed, _ = run(grid_of(fails), MiniBatchFedAvg(TrimmedMean(1)))

    assert not np.array_equal(alone.arrays["w"], failed.arrays["w"])


def longer(factor):
    """The change, so many times as long."""

    def spoil(reply):
        moved = np.full(SHAPE, 0.1 * factor, np.float32)
        model(reply, w=moved)

    return spoil


def test_a_change_longer_than_the_bound_is_refused():
    _, within = run(grid_of(longer(1)), guard={"max_norm": 5.0})
    _, beyond = run(grid_of(longer(100)), guard={"max_norm": 5.0})

    assert not within[1].rejected
    assert "must be at most 5, got 34" in beyond[1].rejected[BAD]


def test_a_change_longer_than_usual_is_refused_and_what_is_usual_outlives_the_process(tmp_path):
    limits = {"norm_medians": 4.0}
    whole, reports = run(grid_of(longer(100)), guard=limits)
    first, _ = run(grid_of(longer(100)), guard=limits, count=1)
    checkpoint.save(tmp_path, first)
    told = []
    loop = RoundLoop(
        grid_of(longer(100)),
        MiniBatchFedAvg(),
        Rounds(count=2, guard=limits),
        on_round=lambda state, report: told.append(report),
    )
    resumed = loop.run(checkpoint.newest(tmp_path))

    assert "at most 4 times the usual 0.4" in reports[1].rejected[BAD]
    assert told[0].rejected == reports[1].rejected
    assert len(first.norms) == 1
    assert checkpoint.to_bytes(whole) == checkpoint.to_bytes(resumed)


def test_a_name_moves_to_another_node_once_its_own_owes_an_answer():
    nodes = {10: "a", 11: "b"}

    class Reborn(InProcessGrid):
        """Node 10 dies in round 2 and is listed on; its client comes back as node 12 in round 3."""

        listed = (10, 11)

        def get_node_ids(self):
            return self.listed

        def pull_messages(self, message_ids):
            dead = {one for one in message_ids if self.lost(one)}
            return list(super().pull_messages(one for one in message_ids if one not in dead))

        def withdraw(self, message_ids):
            return []

        def lost(self, message_id):
            message = self._pushed.get(message_id)
            return message is not None and message.metadata.dst_node_id == 10 and message.metadata.group_id != "1"

    app = ClientApp()

    @app.train()
    def train(message, context):
        client = nodes.get(context.node_id, "a")
        return reply_to(message, partial(answer, client), client=client)

    def answer(client, instruction):
        return Update(instruction.arrays, 1.0, instruction.base_version, {client: {}})

    grid, reports = Reborn(app, {10: {}, 11: {}, 12: {}}), []

    def closed(state, report):
        reports.append(report)
        grid.listed = (10, 11, 12) if report.round == 2 else grid.listed

    rounds = Rounds(count=3, deadline_seconds=0.3)
    RoundLoop(grid, MiniBatchFedAvg(), rounds, on_round=closed).run(start())

    assert [report.clients for report in reports] == [2, 1, 2]
    assert not reports[2].rejected


def test_messages_that_are_no_updates_are_refused_under_their_nodes_name():
    app = ClientApp()

    @app.train()
    def train(message, context):
        return Message(RecordDict({"x": ConfigRecord({"client": "client-0"})}), reply_to=message)

    _, reports = run(InProcessGrid(app, {4: {}}), count=1)

    assert list(reports[0].rejected) == ["node 4"]
