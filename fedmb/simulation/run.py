"""A whole federation in one process: the same server and clients as deployed, on an in-process grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import SettingsError
from fedmb.federation.client import client_app
from fedmb.federation.closed_round import Watch
from fedmb.federation.residual import Residual
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy_choice import strategy_from
from fedmb.simulation.late_grid import LateGrid
from fedmb.simulation.population import Population, Simulation
from fedmb.training.device import computing
from fedmb.training.task import TaskWithData, load_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from fedmb.batch.minibatch import Columns
    from fedmb.federation.checkpoint import ServerState
    from fedmb.telemetry.events import Sink
    from fedmb.telemetry.run_directory import RunDirectory

FIRST_NODE_ID = 2  # 1 is the server's, as on a SuperLink


def simulate(
    settings: Simulation,
    run: RunDirectory,
    *,
    sinks: Callable[[int], Sequence[Sink]] = lambda _: (),
    stop: Event | None = None,
) -> ServerState:
    """Train until the last round, from the newest checkpoint in `run` on; answers the final state.

    Killed at any moment and called again on the same directory, it ends with the same bits: the state depends on the
    settings alone, never on timing.

    Args:
        settings: the whole simulation.
        run: its directory.
        sinks: makes the receivers of round reports, given the number of rounds that are closed already.
        stop: set from outside to end after the current round.

    Raises:
        SettingsError: the task brings no rows, or the directory holds another run.
    """
    task = load_task(settings.task)
    if not isinstance(task, TaskWithData):
        raise SettingsError(
            f"a simulated task brings its rows, {settings.task} lacks train_rows, test_rows or label; add them",
            key="task",
        )
    with computing(threads=settings.threads, repeatable=True):
        return _simulated(settings, task, run, sinks, stop)


def _simulated(
    settings: Simulation,
    task: TaskWithData,
    run: RunDirectory,
    sinks: Callable[[int], Sequence[Sink]],
    stop: Event | None,
) -> ServerState:
    strategy = strategy_from(
        settings.aggregation, settings.training, settings.rounds, task, seed=settings.seed, directory=run.state
    )
    server = Server(
        task,
        settings.rounds,
        strategy,
        run,
        seed=settings.seed,
        training=settings.training,
        keeping=settings.checkpoints,
        wire=settings.wire,
    )
    population = Population(settings, task, run.state)
    app = client_app(
        lambda context: population.trainer(str(context.node_config["client"])),
        lambda client: Residual(run.state / client),
    )
    names = list(population.trainers)
    slow = range(len(names) - settings.slow.clients, len(names))
    grid = LateGrid(
        app,
        {FIRST_NODE_ID + number: {"client": name} for number, name in enumerate(names)},
        {FIRST_NODE_ID + number: settings.slow.rounds for number in slow},
    )
    watch = Watch(
        scorer(task, held_out(settings, task), build=settings.training.build_model),
        lambda _: population.lag(),
        population.set_aside,
    )
    opened = sinks(server.state.version)
    try:
        with population.feeding():
            return server.train(grid, sinks=opened, watch=watch, stop=stop)
    finally:
        population.close()
        for sink in opened:
            sink.close()


def held_out(settings: Simulation, task: TaskWithData) -> Mapping[str, Columns]:
    """The test rows, and among them those of the labels that leave the streams."""
    rows = task.test_rows()
    departed = sorted(set(settings.streamed.labels_before) - set(settings.streamed.labels_after))
    groups: dict[str, Columns] = {"": rows}
    index = np.flatnonzero(np.isin(rows[task.label], departed))
    if settings.streamed.clients and len(index):
        groups["departed"] = {name: array[index] for name, array in rows.items()}
    return groups
