"""A client whose clock is an hour off learns the same bits, and no round closes early or late for it.

Flower refuses nodes whose clock is more than 5 s fast where they authenticate; nothing of ours asks a client's clock.
"""

import time

import pytest

from fedmb.batch.table import TableSource
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

HOUR = 3600.0


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
