"""What Flower runs on the server, once for a run: read the settings, train, write checkpoints and telemetry."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.serverapp import Grid, ServerApp

from fedmb.federation.closed_round import Watch
from fedmb.federation.deployed_server import ServerSettings, named_failures
from fedmb.federation.drain import told_to_drain
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy_choice import strategy_from
from fedmb.settings import load
from fedmb.telemetry.console import LogLines
from fedmb.telemetry.log_lines import show_log_lines
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines, TensorBoard
from fedmb.training.choices import torch_is_here
from fedmb.training.device import computing
from fedmb.training.task import TaskWithData, load_task

if TYPE_CHECKING:
    from flwr.app import Context

    from fedmb.telemetry.events import Sink

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train in the run directory that holds the settings file, from its newest checkpoint on."""
    show_log_lines()
    with named_failures(), ExitStack() as open_parts:
        file = Path(str(context.run_config["settings"]))
        settings = load(ServerSettings, file=file)
        run = open_parts.enter_context(closing(RunDirectory.existing(file.parent)))
        task = None  # without torch clients build the first model, and score it on what they learn
        if torch_is_here():
            open_parts.enter_context(computing(threads=settings.threads, repeatable=True))
            task = load_task(settings.task)
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
        done = server.state.version
        sinks: list[Sink] = [
            JsonLines(run.metrics, after_round=done),
            TensorBoard(run.path, after_round=done),
            LogLines(),
        ]
        for sink in sinks:
            open_parts.callback(sink.close)
        watch = (
            Watch(scorer(task, {"": task.test_rows()}, build=settings.training.build_model))
            if isinstance(task, TaskWithData)
            else None
        )
        server.train(grid, sinks=sinks, watch=watch, stop=open_parts.enter_context(told_to_drain(run.state)))
