"""`fedmb client`: one site of a federation, with its own data."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


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
) -> int:
    """Learn from one source whenever the server asks; SIGTERM ends it."""
    import logging
    from contextlib import suppress
    from os import environ

    from fedmb.cli.failure import draining
    from fedmb.errors import Unreachable
    from fedmb.launch.endpoint import Server, usable_port

    peer = Server(server, root_certificates, node_key)
    stop = draining()
    with suppress(Unreachable):  # the server may come later
        peer.knock()  # before torch is imported: a refusal is to be read within seconds
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)

    from fedmb.federation.deployed_client import ClientSettings
    from fedmb.launch.node import Node
    from fedmb.settings import load

    explicit = {"source": source, "name": name, "task": task, "state": state}
    settings = load(ClientSettings, file=config, overrides=override or [], environ=environ, explicit=explicit)
    with Node(settings, peer, port=usable_port("127.0.0.1", port)) as node:
        logging.getLogger(__name__).info("client started name=%s server=%s source=%s", settings.name, server, source)
        node.supervise(stop)
    return 0
