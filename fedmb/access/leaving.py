"""Says goodbye for a SuperNode that was killed, so that neither its round nor its successor need wait.

A SuperNode that ends tells the SuperLink. One that is killed is missed after 30 to 60 s, and as long as it counts as
connected no other is let in with its key. So the client that started it speaks for it: with its key over Flower's fleet
API, through the door; on loopback, where a SuperNode has no key that others know, over the control API, which anybody
on this machine may call.

Source: flwr/superlink/servicer of Flower 1.41, fleet_handlers.py and control_handlers.py.
"""

from __future__ import annotations

import http.client
import logging
from typing import TYPE_CHECKING

from fedmb.access.knock import connection_to, posted, proof

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

DEACTIVATE, UNREGISTER = "/v1/fleet/deactivate-node", "/v1/control/unregister-node"


def leave(
    node: int,
    host: str,
    port: int,
    *,
    tls: bool,
    roots: Path | None = None,
    key: Path | None = None,
    ahead: float = 0.0,
) -> bool:
    """Take a node off the list of those that are connected; whether it was on it and the server heard us.

    Args:
        node: Flower's id of it.
        host: of the server.
        port: of the server.
        tls: whether to speak TLS; without a key nothing can be said over that.
        roots: PEM certificates that vouch for the server; None for the system's.
        key: the node's private key.
        ahead: seconds that the server's clock is ahead of ours, as `fedmb.access.knock` answers them.

    Raises:
        SettingsError: `roots` or `key` cannot be used.
    """
    from flwr.proto.control_pb2 import UnregisterNodeRequest
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    if tls and key is None:
        return False
    path, request = (
        (DEACTIVATE, DeactivateNodeRequest(node_id=node)) if tls else (UNREGISTER, UnregisterNodeRequest(node_id=node))
    )
    headers, connection = proof(key, ahead), connection_to(host, port, tls=tls, roots=roots)
    try:
        status, _ = posted(connection, path, request.SerializeToString(), headers)
    except (OSError, http.client.HTTPException) as error:
        log.warning("node not taken off the list node=%d reason=%s", node, error)
        return False
    return status < http.HTTPStatus.BAD_REQUEST
