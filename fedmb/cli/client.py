"""`fedmb client`: one site of a federation, with its own data."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from threading import Event

    from fedmb.federation.client_settings import ClientSettings
    from fedmb.launch.endpoint import Server


def client(
    server: Annotated[str, typer.Option(help="Address of the server, HOST:PORT.")] = "127.0.0.1:8000",
    source: Annotated[
        str | None,
        typer.Option(help="table:/data/x.npz, dataset:module:Class, kafka://host/topic, ring:/x.ring or file:..."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the client, its own in the federation.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Directory for the replay ring; state/<name> if not given.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What is learnt, written module:Class.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like replay.share=0.3; may be repeated.")
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port for the client's own processes, on loopback; 0 for any.", min=0, max=65535)
    ] = 0,
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM certificates that vouch for the server; loopback needs none.")
    ] = None,
    node_key: Annotated[
        Path | None, typer.Option(help="The client's private key, of `fedmb keys node`; loopback needs none.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address of /metrics, /healthz and /readyz.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of them; 0 for any.", min=0, max=65535)] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
) -> int:
    """Learn from one source whenever the server asks; SIGTERM ends it."""
    from fedmb.cli.log_form import logging_as

    explicit: dict[str, object] = {"source": source, "name": name, "task": task, "state": state}
    explicit |= {"watching.host": metrics_host, "watching.port": metrics_port}

    def learn() -> int:
        from contextlib import suppress
        from os import environ

        from fedmb.cli.failure import draining
        from fedmb.errors import Unreachable
        from fedmb.launch.endpoint import Server

        peer = Server(server, root_certificates, node_key)
        stop = draining()
        with suppress(Unreachable):  # the server may come later
            peer.knock()  # before torch is imported: a refusal is to be read within seconds

        from fedmb.federation.client_settings import ClientSettings
        from fedmb.settings import load

        settings = load(ClientSettings, file=config, overrides=override or [], environ=environ, explicit=explicit)
        _learn(settings, peer, port, stop)
        return 0

    return logging_as(learn, json=json, name="client")


def _learn(settings: ClientSettings, peer: Server, port: int, stop: Event) -> None:
    """Keep the node of a client running, and show how it goes, until `stop` is set."""
    import logging

    from fedmb.federation.client_tally import ClientTally
    from fedmb.launch.endpoint import usable_port
    from fedmb.launch.node import PARTS, Node
    from fedmb.launch.standing import Standing
    from fedmb.launch.watched import Watched

    standing, tally = Standing("client", stop, *PARTS), ClientTally(settings.directory)
    with (
        Node(settings, peer, port=usable_port("127.0.0.1", port), standing=standing) as node,
        Watched(standing, settings.watching, figures=tally.metrics, line=tally.line) as watched,
    ):
        logging.getLogger(__name__).info(
            "client started name=%s server=%s source=%s metrics=%s",
            settings.name,
            peer.address,
            settings.source,
            watched.address,
        )
        node.supervise(stop)
