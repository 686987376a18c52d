"""Which client answers from which node: a node is one client, and nobody answers in another's name.

A SuperNode that authenticates keeps its id over restarts; one that does not comes back under a new id, beside an old
one that Flower still lists for a while. So a name moves to another node only where its own is gone, or owes an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.errors import ShapeError, StaleUpdate
from fedmb.federation.wire import sender

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from flwr.app import Message

_MAX_NAME = 200  # letters


class Senders:
    """Names by node, as long as this process lives."""

    def __init__(self) -> None:
        self._client_of: dict[int, str] = {}
        self._node_of: dict[str, int] = {}
        self._answering: set[int] = set()

    def open(self, connected: Iterable[int], owing: Collection[int]) -> None:
        """Begin a round: who is connected, and which of them have not answered a message of an earlier round."""
        self._answering = {*connected} - {*owing}

    def client_of(self, node: int) -> str | None:
        """The client behind a node; None before its first accepted reply."""
        return self._client_of.get(node)

    def blamed(self, node: int, message: Message) -> str:
        """Whose fault a node's reply is: its client's, whatever it says; `node <id>` where that is not known."""
        known = self._client_of.get(node)
        if known is not None:
            return known
        claimed = sender(message)
        is_free = self._node_of.get(claimed, node) == node
        return claimed if is_free and is_name(claimed) else f"node {node}"

    def check(self, node: int, client: str) -> None:
        """Demand that `client` may answer from a node.

        Raises:
            ShapeError: the name is none, or the node has answered as another client.
            StaleUpdate: another node answers in that name.
        """
        if not is_name(client):
            raise ShapeError(
                f"a client's name must be 1 to {_MAX_NAME} printable letters and no path, got {client[:80]!r}"
            )
        known = self._client_of.get(node, client)
        if known != client:
            raise ShapeError(
                f"a node answers for one client, node {node} is {known!r}, got a reply in the name of {client!r}; give "
                "the client its name back, or start the server anew"
            )
        holder = self._node_of.get(client, node)
        if holder != node and holder in self._answering:
            raise StaleUpdate(
                f"a client counts once in a round, {client!r} answers from node {holder}, got it from node {node} too; "
                "give every client a name of its own"
            )

    def learn(self, node: int, client: str) -> None:
        """Remember that `client` is behind `node`, and behind no other."""
        before = self._node_of.get(client)
        if before is not None and before != node:
            del self._client_of[before]
        self._client_of[node], self._node_of[client] = client, node


def is_name(text: str) -> bool:
    """Whether a text that was received may name a client, in a log, a file and a metric."""
    return 0 < len(text) <= _MAX_NAME and text.isprintable() and not any(part in text for part in ("/", "\\", ".."))
