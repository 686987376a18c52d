"""`fedmb keys node`: a key by which the server knows a client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def node(
    names: Annotated[list[str], typer.Argument(help="Names of clients.")],
    into: Annotated[Path, typer.Option(help="Folder of the keys.")] = Path("keys/nodes"),
) -> int:
    """Make a key pair for each client: NAME.key stays with it, NAME.pub goes to the server's --node-keys."""
    from fedmb.access.new_keys import make_node
    from fedmb.access.node_keys import fingerprint, public_keys

    for name in names:
        make_node(into, name)
        ((pem, _),) = public_keys(into / f"{name}.pub").items()
        print(f"node       {into / name}.key and .pub, {fingerprint(pem)}, without end")
    return 0
