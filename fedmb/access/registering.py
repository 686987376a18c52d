"""Makes a node's key known to the SuperLink, over Flower's control API on loopback.

Flower takes a listed key's node in only once its key is registered. The door does that whenever a listed node activates
itself, so it does not matter who was started again since: door, SuperLink or node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from flwr.proto.control_pb2 import RegisterNodeRequest

from fedmb.access.refusal import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTER = "/v1/control/register-node"
_MEDIA_TYPE = "application/protobuf"
_IN_USE = 23  # ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE of flwr/supercore/error/base.py


async def register(superlink: httpx.AsyncClient, pem: bytes, name: str) -> None:
    """Register a public key; one that is registered already is as good.

    Args:
        superlink: client whose base URL is the SuperLink's.
        pem: the key.
        name: shown by `flwr supernode list`.

    Raises:
        Refused: the SuperLink does not answer, or does not take the key.
    """
    try:
        answer = await superlink.post(
            REGISTER,
            content=RegisterNodeRequest(public_key=pem, name=name).SerializeToString(),
            headers={"content-type": _MEDIA_TYPE, "accept": _MEDIA_TYPE},
        )
    except httpx.TransportError as error:
        raise Refused(
            Reason.SUPERLINK, f"the SuperLink must answer the door, it does not ({error!r}); read superlink.log"
        ) from error
    if answer.is_error and _code(answer) != _IN_USE:
        raise Refused(
            Reason.SUPERLINK, f"the SuperLink must take a listed key, it says {answer.text[:200]}; read superlink.log"
        )


def _code(answer: httpx.Response) -> int | None:
    try:
        told: Mapping[str, int] = answer.json()
        return told.get("code")
    except (ValueError, AttributeError):
        return None
