"""`fedmb simulate`: a whole federation on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmb.simulation.population import Simulation
    from fedmb.telemetry.events import Sink
    from fedmb.telemetry.run_directory import RunDirectory


def simulate(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like training.sizing.size=64; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    rounds: Annotated[str | None, typer.Option(help="Number of rounds, or forever; also with --resume.")] = None,
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
    from fedmb.federation.rounds import count_from
    from fedmb.settings import load, to_toml
    from fedmb.simulation.population import Simulation
    from fedmb.telemetry.run_directory import RunDirectory

    count = count_from(rounds)
    if resume is not None:
        given = {"--config": config, "--seed": seed, "--replay": replay, "--run-dir": run_dir}
        changed = {flag for flag, value in given.items() if value is not None}
        settings, run = _resumed_run(resume, count, override or [], changed)
    else:
        explicit = {"seed": seed, "rounds.count": count, "replay.share": replay}
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
        total = None if settings.rounds.is_endless else int(settings.rounds.last)
        shown = LiveTable(console, total=total, done=done) if console.is_terminal else LogLines()
        return [JsonLines(run.metrics, after_round=done), TensorBoard(run.path, after_round=done), shown]

    started = time.monotonic()
    try:
        state = run_simulation(settings, run, sinks=receivers, stop=draining())
        seconds = time.monotonic() - started
        print(summary(run, state, rounds=settings.rounds, seconds=seconds, verb="simulate"))
    finally:
        run.close()
    return 0


def _resumed_run(
    place: Path, count: int | str | None, overrides: list[str], changed: set[str]
) -> tuple[Simulation, RunDirectory]:
    """Settings and directory of a run that goes on, with another last round or privacy budget where it is asked for.

    The streams keep the record at which they drift, so rounds that both runs have are the same.
    """
    from fedmb.errors import SettingsError
    from fedmb.launch.begun_run import check_budget, of_budget
    from fedmb.settings import load, to_toml
    from fedmb.simulation.population import Simulation
    from fedmb.telemetry.run_directory import RunDirectory, write_atomically

    budget = of_budget(overrides)
    if changed := changed | ({"--set"} if len(budget) < len(overrides) else set()):
        raise SettingsError(
            f"a resumed run keeps its settings, got {', '.join(sorted(changed))}; leave them out, or start a new run"
        )
    run = RunDirectory.existing(place)
    settings = load(Simulation, file=run.config)
    if count is None and not budget:
        return settings, run
    drift = settings.drift_record() if count is not None else None
    try:
        now = load(
            Simulation,
            file=run.config,
            overrides=budget,
            explicit={"rounds.count": count, "streamed.drift_record": drift},
        )
        check_budget(settings.aggregation, now.aggregation)
    except SettingsError:
        run.close()
        raise
    write_atomically(run.config, to_toml(now))
    return now, run
