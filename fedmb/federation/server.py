"""The server's half: a model, its rounds, its checkpoints and its telemetry.

It aggregates without torch; with torch it also builds the model that a run begins with, and scores it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from fedmb.arrays.bfloat16 import is_real
from fedmb.errors import SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.combining import is_private
from fedmb.federation.initial_model import Beginning, initial_model
from fedmb.federation.model_record import check_names
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy_choice import check_no_statistics
from fedmb.federation.trained_arrays import are_stepped, known_to, tell
from fedmb.training.task_digest import task_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedmb.aggregation.compress import Wire
    from fedmb.batch.minibatch import Columns
    from fedmb.federation.checkpoint import Checkpoints
    from fedmb.federation.closed_round import Watch
    from fedmb.federation.initial_model import Begun
    from fedmb.telemetry.events import RoundReport, Sink
    from fedmb.telemetry.run_directory import RunDirectory
    from fedmb.training.recipe import Training
    from fedmb.training.task import BuildModel, Task
    from fedmb.update import Arrays

log = logging.getLogger(__name__)


class Server:
    """Trains one task in one run directory; a new process on the same directory continues where the last one stopped.

    Args:
        task: what is learnt; the same class on server and clients. None where the server has no torch to build its
            model: then the clients are asked for the one to begin with, which has the same bits, and for what of it is
            trained.
        rounds: how many rounds, and whom they wait for.
        strategy: any Flower strategy.
        run: the run directory, whose newest whole checkpoint is the start.
        seed: seed of the run.
        training: how every client trains; None leaves it to each client's own settings.
        keeping: which versions of the model are kept; the newest two if nothing is said.
        wire: how the clients' models travel; as they are if left out.

    Raises:
        SettingsError: the directory holds a run of another seed.
        CorruptCheckpoint: it holds checkpoints, and none is whole.
    """

    def __init__(
        self,
        task: Task | None,
        rounds: Rounds,
        strategy: Strategy,
        run: RunDirectory,
        *,
        seed: int,
        training: Training | None = None,
        keeping: Checkpoints | None = None,
        wire: Wire | None = None,
    ) -> None:
        self.task = task
        self.rounds = rounds
        self.strategy = strategy
        self.run_directory = run
        self.training = training
        self.keeping = keeping
        self.wire = wire
        found = checkpoint.newest(run.checkpoints)
        if found is not None and found.seed != seed:
            raise SettingsError(
                f"a run keeps its seed, {run.path} was started with {found.seed}, got {seed}; use another run directory"
            )
        build = training.build_model if training else None
        state = found or ServerState(version=0, arrays=_initial(task, seed, build), seed=seed)
        self.state = replace(state, parameters=tuple(sorted(known_to(strategy))) or state.parameters)

    def train(
        self, grid: Grid, *, sinks: Sequence[Sink] = (), watch: Watch | None = None, stop: Event | None = None
    ) -> ServerState:
        """Rounds until the last; every state is durable before the next round starts.

        Raises:
            NotEnoughData: clients are missing or fail round after round, or none gives a model to begin with.
            SettingsError: clients name running statistics, and a private model may not send such.
            OSError: a checkpoint cannot be written; the one before it is whole.
        """

        def close_round(state: ServerState, report: RoundReport) -> None:
            # Told first, kept second: a process killed between the two tells the round again when it is resumed, and
            # sinks drop what lies beyond the checkpoint. The other way round, the round would never be told.
            for sink in sinks:
                sink.report(report)
            checkpoint.save(self.run_directory.checkpoints, state, self.keeping)
            self.state = state

        told = self.training.model_dump() if self.training else None
        loop = RoundLoop(
            grid,
            self.strategy,
            self.rounds,
            on_round=close_round,
            watch=watch,
            stop=stop,
            training=told,
            wire=self.wire,
            memory=self.run_directory.state,
            task=task_digest(self.task) if self.task else "",
        )
        must_ask = self.task is None and are_stepped(self.strategy)
        if not self.state.arrays or (must_ask and not self.state.parameters):
            loop.wait_for_nodes()
            asked = Beginning(self.state.seed, told)
            begun = initial_model(grid, asked, deadline_seconds=self.rounds.deadline_seconds, stop=stop)
            if begun is None:
                return self.state
            self.state = _begun(self.state, begun, is_stepped=must_ask)
        if must_ask:
            tell(self.strategy, self.state.parameters)
            self._check_private()
        return loop.run(self.state)

    def _check_private(self) -> None:
        if self.training is not None and is_private(self.strategy):
            real = {name for name, array in self.state.arrays.items() if is_real(array.dtype)}
            check_no_statistics(self.training, real.difference(self.state.parameters))


def scorer(
    task: Task, groups: Mapping[str, Columns], *, build: BuildModel | None = None
) -> Callable[[ServerState], dict[str, float]]:
    """A function that scores a state's model on each group of held-out rows.

    The figures of group "" keep their names; those of a group "departed" are called "departed_accuracy" and so on.
    """
    from fedmb.training.evaluate import evaluate
    from fedmb.training.parameters import load_arrays

    model = build(task) if build else task.build_model()

    def score(state: ServerState) -> dict[str, float]:
        return {
            f"{group}_{name}" if group else name: value
            for group, columns in groups.items()
            for name, value in figures(state.arrays, columns).items()
        }

    def figures(arrays: Arrays, columns: Columns) -> dict[str, float]:
        load_arrays(model, arrays)
        return evaluate(task, model, columns)

    return score


def _begun(state: ServerState, begun: Begun, *, is_stepped: bool) -> ServerState:
    """A state with what clients say that it lacks: the model, or what of it is trained.

    Raises:
        ShapeError: what they build is another model.
    """
    if state.arrays:
        check_names(begun.arrays.keys(), state.arrays.keys())
    arrays = state.arrays or begun.arrays
    return replace(state, arrays=arrays, parameters=tuple(sorted(begun.parameters)) if is_stepped else ())


def _initial(task: Task | None, seed: int, build: BuildModel | None) -> Arrays:
    """The model that round 1 starts from; none yet where the clients are to be asked."""
    if task is None:
        return {}
    from fedmb.training.parameters import initial_arrays

    return initial_arrays(task, seed, build=build)
