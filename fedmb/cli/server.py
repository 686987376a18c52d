"""`fedmb server`: one run of a federation whose clients are processes of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from threading import Event

    from fedmb.federation.deployed_server import ServerSettings
    from fedmb.launch.endpoint import Listen
    from fedmb.telemetry.run_directory import RunDirectory


def server(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like training.sizing.size=64; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    rounds: Annotated[
        str | None, typer.Option(help="Number of rounds, or forever; more of them with --resume.")
    ] = None,
    min_clients: Annotated[int | None, typer.Option(help="Clients that a round waits for.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Directory of the run; runs/<time> if not given.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this directory.")] = None,
    app: Annotated[Path | None, typer.Option(help="Folder made with `fedmb new`; fedmb's own if not given.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback it needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.", min=0, max=65535)] = 8000,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate of the server, PEM.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    ssl_ca_certfile: Annotated[
        Path | None, typer.Option(help="The authority's certificate, PEM: checked against the server's.")
    ] = None,
    node_keys: Annotated[
        Path | None, typer.Option(help="Folder with the .pub file of each client that is let in.")
    ] = None,
) -> int:
    """Start a server, run its rounds with the clients that connect, and end."""
    import logging
    import time

    from fedmb.cli.failure import draining
    from fedmb.launch import bundle
    from fedmb.launch.endpoint import Listen, usable_port

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    files = (ssl_certfile, ssl_keyfile, ssl_ca_certfile, node_keys)
    Listen(host, port, *files).check()  # refused before anything is begun
    listen = Listen(host, usable_port(host, port), *files)
    stop = draining()

    from fedmb.federation import checkpoint
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.rounds import count_from
    from fedmb.federation.run_summary import summary
    from fedmb.telemetry.run_directory import RunDirectory

    count = count_from(rounds)
    if resume is None:
        explicit = {"seed": seed, "rounds.count": count, "rounds.min_clients": min_clients}
        settings, run = _new_run(config, override or [], explicit, run_dir)
    else:
        fixed = {"--config": config, "--set": override, "--seed": seed, "--min-clients": min_clients}
        settings, run = _resumed_run(resume, count, {**fixed, "--run-dir": run_dir})
    state = checkpoint.newest(run.checkpoints)
    over = state is not None and bool(state.version >= settings.rounds.last or state.convergence.get("reason"))
    run.close()  # the server's own process has it while it trains
    started = time.monotonic()
    if not over:
        _deploy(run, settings, listen, app or bundle(), stop)
    run = RunDirectory.existing(run.path)
    state = checkpoint.newest(run.checkpoints) or ServerState(version=0, arrays={})
    print(summary(run, state, rounds=settings.rounds, seconds=time.monotonic() - started, verb="server"))
    run.close()
    return 0


def _deploy(run: RunDirectory, settings: ServerSettings, listen: Listen, app: Path, stop: Event) -> None:
    """Run Flower's server side until the run is over, or `stop` is set and the open round has closed."""
    import logging

    from fedmb.federation.drain import Drain
    from fedmb.launch.deployment import Deployment

    log = logging.getLogger(__name__)
    with (
        Drain(run.state, stop, settings.rounds.drain_seconds) as drain,
        Deployment(listen, app, run.state, drain.over, settings.door) as deployment,
    ):
        deployment.start()
        log.info("server listening address=%s run=%s", listen.own_address, run.path)
        drain.has_begun = True
        deployment.run(run.config)


def _new_run(
    config: Path | None, overrides: list[str], explicit: dict[str, int | str | None], place: Path | None
) -> tuple[ServerSettings, RunDirectory]:
    """Settings and directory of a run that begins."""
    import time
    from os import environ

    from fedmb.federation.deployed_server import ServerSettings
    from fedmb.settings import load, to_toml
    from fedmb.telemetry.run_directory import RunDirectory

    settings = load(ServerSettings, file=config, overrides=overrides, environ=environ, explicit=explicit)
    path = place or Path("runs") / time.strftime("%Y-%m-%dT%H-%M-%S")
    return settings, RunDirectory.create(path, config=to_toml(settings), seed=settings.seed)


def _resumed_run(
    place: Path, rounds: int | str | None, fixed: dict[str, object]
) -> tuple[ServerSettings, RunDirectory]:
    """Settings and directory of a run that goes on, with another last round where it is asked for.

    A later last round changes no earlier one, and one that never ends may be given an end; anything else would make it
    another run.
    """
    from fedmb.errors import SettingsError
    from fedmb.federation.deployed_server import ServerSettings
    from fedmb.settings import load, to_toml
    from fedmb.telemetry.run_directory import RunDirectory, write_atomically

    changed = [flag for flag, value in fixed.items() if value is not None]
    if changed:
        raise SettingsError(
            f"a resumed run keeps its settings, got {', '.join(changed)}; leave them out, or start a new run"
        )
    run = RunDirectory.existing(place)
    settings = load(ServerSettings, file=run.config)
    if rounds is None:
        return settings, run
    asked = load(ServerSettings, file=run.config, explicit={"rounds.count": rounds})
    if asked.rounds.last < settings.rounds.last < math.inf:
        run.close()
        raise SettingsError(
            f"a resumed run may have more rounds than its {settings.rounds.count}, not fewer, got {rounds}; "
            "leave --rounds out",
            key="rounds.count",
        )
    write_atomically(run.config, to_toml(asked))
    return asked, run
