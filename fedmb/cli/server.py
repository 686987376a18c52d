"""`fedmb server`: one run of a federation whose clients are processes of their own."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
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
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this directory; latest for the newest under runs/.")
    ] = None,
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
    metrics_host: Annotated[str | None, typer.Option(help="Address of /metrics, /healthz and /readyz.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of them; 0 for any.", min=0, max=65535)] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
) -> int:
    """Start a server, run its rounds with the clients that connect, and end."""
    from fedmb.cli.log_form import logging_as

    tls = (ssl_certfile, ssl_keyfile, ssl_ca_certfile, node_keys)
    told = {"seed": seed, "rounds.count": rounds, "rounds.min_clients": min_clients}
    watching = {"watching.host": metrics_host, "watching.port": metrics_port}

    def serve() -> int:
        from fedmb.cli.failure import draining
        from fedmb.federation.rounds import count_from
        from fedmb.launch import bundle
        from fedmb.launch.begun_run import Asked, begun_or_resumed
        from fedmb.launch.endpoint import Listen, usable_port

        Listen(host, port, *tls).check()  # refused before anything is begun
        listen = Listen(host, usable_port(host, port), *tls)
        stop = draining()
        asked = Asked(config, override or [], told | {"rounds.count": count_from(rounds)}, run_dir)
        settings, run = begun_or_resumed(asked, resume, watching)
        _serve(run, settings, listen, app or bundle(), stop)
        return 0

    return logging_as(serve, json=json, name="server")


def _serve(run: RunDirectory, settings: ServerSettings, listen: Listen, app: Path, stop: Event) -> None:
    """Run what is left of a run, and print how it stands."""
    import time

    from fedmb.federation import checkpoint
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.private import is_over
    from fedmb.federation.run_summary import summary
    from fedmb.telemetry.run_directory import RunDirectory

    state = checkpoint.newest(run.checkpoints)
    over = state is not None and (
        state.version >= settings.rounds.last
        or is_over(
            state.convergence.get("reason"),
            settings.aggregation.privacy,
            settings.rounds.fraction_train,
            state.strategy,
        )
    )
    run.close()  # the server's own process has it while it trains
    started = time.monotonic()
    if not over:
        _deploy(run, settings, listen, app, stop)
    run = RunDirectory.existing(run.path)
    state = checkpoint.newest(run.checkpoints) or ServerState(version=0, arrays={})
    print(summary(run, state, rounds=settings.rounds, seconds=time.monotonic() - started, verb="server"))
    run.close()


def _deploy(run: RunDirectory, settings: ServerSettings, listen: Listen, app: Path, stop: Event) -> None:
    """Run Flower's server side until the run is over, or `stop` is set and the open round has closed."""
    import logging

    from fedmb.federation.drain import Drain
    from fedmb.federation.run_figures import RunFigures
    from fedmb.launch.deployment import PARTS, Deployment
    from fedmb.launch.standing import Standing
    from fedmb.launch.survival import survive
    from fedmb.launch.watched import Watched

    log = logging.getLogger(__name__)
    standing, figures = Standing("server", stop, *PARTS), RunFigures(run.metrics, run.checkpoints)
    with (
        Watched(standing, settings.watching, figures=figures.metrics, line=figures.line) as watched,
        Drain(run.state, stop, settings.rounds.drain_seconds) as drain,
        Deployment(listen, app, run, drain, settings.door, standing=standing) as deployment,
    ):
        deployment.start()
        log.info("server listening address=%s run=%s metrics=%s", listen.own_address, run.path, watched.address)
        survive(deployment, run.checkpoints, stop, most=settings.restarts, standing=standing)
