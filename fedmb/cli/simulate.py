"""`fedmb simulate`: a whole federation on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmb.telemetry.events import Sink


def simulate(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like training.sizing.size=64; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.")] = None,
    replay: Annotated[float | None, typer.Option(help="Replayed share of a streamed batch; 0 for none.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Directory of the run; runs/<time> if not given.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this directory.")] = None,
) -> int:
    """Train on this machine: server, clients, private tables and drifting streams in one process."""
    import logging
    import time
    from os import environ

    from rich.console import Console

    from fedmb.cli.failure import draining
    from fedmb.errors import SettingsError
    from fedmb.settings import load, to_toml
    from fedmb.simulation.population import Simulation
    from fedmb.telemetry.run_directory import RunDirectory

    if resume is not None:
        given = {"--config": config, "--set": override, "--seed": seed, "--rounds": rounds, "--replay": replay}
        changed = [flag for flag, value in given.items() if value is not None]
        if changed or run_dir is not None:
            raise SettingsError(
                f"a resumed run keeps its settings, got {', '.join([*changed, *(['--run-dir'] if run_dir else [])])}; "
                "leave them out, or start a new run"
            )
        run = RunDirectory.existing(resume)
        settings = load(Simulation, file=run.config)
    else:
        explicit = {"seed": seed, "rounds.count": rounds, "replay.share": replay}
        settings = load(Simulation, file=config, overrides=override or [], environ=environ, explicit=explicit)
        path = run_dir or Path("runs") / time.strftime("%Y-%m-%dT%H-%M-%S")
        run = RunDirectory.create(path, config=to_toml(settings), seed=settings.seed)

    from fedmb.federation.run_summary import summary
    from fedmb.simulation.run import simulate as run_simulation
    from fedmb.telemetry.console import LiveTable, LogLines
    from fedmb.telemetry.sinks import JsonLines, TensorBoard

    console = Console(stderr=True)
    level = logging.WARNING if console.is_terminal else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", force=True)
    # A line a client and round is for clients that are processes of their own; here the round's line says it all.
    logging.getLogger("fedmb.federation.client").setLevel(logging.WARNING)

    def receivers(done: int) -> list[Sink]:
        shown = LiveTable(console, total=settings.rounds.count, done=done) if console.is_terminal else LogLines()
        return [JsonLines(run.metrics, after_round=done), TensorBoard(run.path, after_round=done), shown]

    started = time.monotonic()
    try:
        state = run_simulation(settings, run, sinks=receivers, stop=draining())
        seconds = time.monotonic() - started
        print(summary(run, state, rounds=settings.rounds.count, seconds=seconds, verb="simulate"))
    finally:
        run.close()
    return 0
