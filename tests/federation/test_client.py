"""What a client answers before it learns."""

import pytest

from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.task_digest import task_digest


class Changed(Digits):
    """The same layers and rows, written elsewhere."""


def run(*tasks, count=1):
    trainers = {
        f"c{at}": LocalUpdate(
            task,
            TableSource({name: rows[:64] for name, rows in task.train_rows().items()}, seed=0, client=f"c{at}"),
            Training.plain(batch_size=32, steps=1),
            client=f"c{at}",
            seed=0,
        )
        for at, task in enumerate(tasks)
    }
    app = client_app(lambda context: trainers[context.node_config["client"]])
    grid = InProcessGrid(app, {10 + at: {"client": name} for at, name in enumerate(trainers)})
    reports = []
    loop = RoundLoop(
        grid,
        MiniBatchFedAvg(),
        Rounds(count=count),
        on_round=lambda state, report: reports.append(report),
        task=task_digest(Digits()),
    )
    loop.run(ServerState(0, initial_arrays(Digits(), 0)))
    return reports


def test_a_client_of_another_task_learns_nothing_and_both_sides_are_named():
    (report,) = run(Digits(), Changed())

    assert report.accepted == ("c0",)
    assert report.rejected.keys() == {"node 11"}
    assert f"got {task_digest(Digits())} there and {task_digest(Changed())} here" in report.rejected["node 11"]


def test_where_every_client_runs_another_task_the_run_ends_with_that_reason():
    with pytest.raises(NotEnoughData, match=r"must run one task, got fedmb\.tasks\.digits:Digits@"):
        run(Changed(), count=9)
