"""`fedmb keys server`: a certificate by which clients know the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def server(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses by which clients reach the server.")],
    into: Annotated[Path, typer.Option(help="Folder of the keys.")] = Path("keys"),
    days: Annotated[int, typer.Option(help="Days that the certificate is valid.", min=1)] = 365,
) -> int:
    """Make a server's certificate and key, signed by the folder's authority, which is made if there is none."""
    from fedmb.access.new_keys import AUTHORITY, SERVER, make_server

    is_new = not (into / f"{AUTHORITY}.crt").exists()
    made = make_server(into, hosts, days)
    if is_new:
        print(f"authority  {into / AUTHORITY}.crt for every client; {AUTHORITY}.key signs: keep it off the server")
    print(f"server     {into / SERVER}.crt and .key, until {made.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    return 0
