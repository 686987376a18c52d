"""How long a round waits; and a client whose clock is an hour off learns the same bits, in rounds as long as ever.

tests/processes/test_federation.py and test_guarded_federation.py have such clients as processes.
"""

import logging
import math
import time

import pytest

from fedmb.batch.table import TableSource
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.reply_times import FILE, ReplyTimes
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

HOUR = 3600.0


def times(file=None, **changes):
    told = {"medians": 4.0, "least": 1.0, "most": 100.0, **changes}
    return ReplyTimes(told["medians"], told["least"], told["most"], file)


def observed(one, **replies):
    for client, seconds in replies.items():
        for each in seconds:
            one.observe(client, each)
    return one


def test_a_round_waits_for_the_slowest_that_it_asks():
    one = observed(times(), a=[2.0] * 3, b=[5.0] * 3, c=[9.0] * 3)

    assert one.wait_seconds(["a", "b"]) == 20.0
    assert one.wait_seconds(["a"]) == 8.0


def test_a_round_waits_no_shorter_and_no_longer_than_the_bounds():
    one = observed(times(), quick=[0.01], slow=[60.0])

    assert one.wait_seconds(["quick"]) == 1.0
    assert one.wait_seconds(["slow"]) == 100.0


def test_who_never_replied_is_waited_for_like_the_others_and_alone_until_the_deadline():
    one = observed(times(), a=[2.0])

    assert one.wait_seconds(["a", None, "new"]) == 8.0
    assert one.wait_seconds([None, "new"]) == 100.0
    assert one.wait_seconds([]) == 100.0


def test_one_slow_reply_is_believed_at_once_and_one_quick_one_is_not():
    slow = observed(times(), a=[1.0] * 8 + [20.0])
    quick = observed(times(), a=[20.0] * 8 + [1.0])

    assert slow.usual("a") == quick.usual("a") == 20.0
    assert observed(slow, a=[1.0]).usual("a") == 1.0  # what came once is not usual


def test_without_a_limit_in_medians_every_round_waits_until_the_deadline(tmp_path):
    one = observed(times(tmp_path / FILE, medians=math.inf), a=[2.0])
    one.keep()

    assert one.wait_seconds(["a"]) == 100.0
    assert not (tmp_path / FILE).exists()


def test_a_process_that_follows_waits_alike(tmp_path):
    first = observed(times(tmp_path / FILE), a=[2.0, 3.0], b=[0.5] * 20)
    first.keep()
    second = times(tmp_path / FILE)

    for clients in (["a"], ["b"], ["a", "b"]):
        assert second.wait_seconds(clients) == first.wait_seconds(clients)


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"a": 7}', b"\xff\xfe"])
def test_times_that_cannot_be_read_are_learnt_anew(tmp_path, caplog, damage):
    (tmp_path / FILE).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        one = times(tmp_path / FILE)

    assert one.wait_seconds(["a"]) == 100.0
    assert "reply times forgotten" in caplog.text


def test_names_without_end_do_not_fill_the_memory():
    one = times()
    for number in range(10_050):
        one.observe(f"client-{number}", 1.0)

    assert sum(one.usual(f"client-{number}") is not None for number in range(10_050)) == 10_000


class Skewed(InProcessGrid):
    """Runs one node under another wall clock, which its replies carry too."""

    def __init__(self, *given, node, seconds, monkeypatch):
        super().__init__(*given)
        self.node, self.seconds, self.monkeypatch = node, seconds, monkeypatch
        self.told = []

    def _reply(self, message):
        if message.metadata.dst_node_id != self.node:
            return super()._reply(message)
        with self.monkeypatch.context() as patched:
            wall, wall_ns = time.time, time.time_ns
            patched.setattr(time, "time", lambda: wall() + self.seconds)
            patched.setattr(time, "time_ns", lambda: wall_ns() + int(self.seconds * 1e9))
            reply = super()._reply(message)
            self.told.append(time.time())
        reply.metadata.__dict__["_created_at"] += self.seconds
        return reply


def run(seconds, monkeypatch):
    task, names = Digits(), ("a", "b")
    rows = task.train_rows()
    trainers = {}
    for at, name in enumerate(names):
        part = {column: array[at::2] for column, array in rows.items()}
        training = Training.plain(batch_size=32, steps=3, learning_rate=0.2)
        trainers[name] = LocalUpdate(task, TableSource(part, seed=0, client=name), training, client=name, seed=0)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    nodes = {10 + at: {"client": name} for at, name in enumerate(names)}
    grid, reports = Skewed(app, nodes, node=11, seconds=seconds, monkeypatch=monkeypatch), []
    rounds = Rounds(count=3, quorum=2, closing={"seconds": 60}, late={"policy": "discount"})
    loop = RoundLoop(grid, MiniBatchFedAvg(), rounds, on_round=lambda state, one: reports.append(one))
    state = loop.run(ServerState(0, initial_arrays(task, 0)))
    return checkpoint.to_bytes(state), reports, grid.told


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_client_whose_clock_is_an_hour_off_gives_one_digest(seconds, monkeypatch):
    straight, _, _ = run(0.0, monkeypatch)
    skewed, reports, told = run(seconds, monkeypatch)

    assert all(abs(abs(at - time.time()) - HOUR) < 600 for at in told)  # it did live at another time
    assert len(told) == 3
    assert [(report.clients, report.closed_by) for report in reports] == [(2, "replies")] * 3
    assert not any(report.rejected or report.late for report in reports)
    assert skewed == straight
