"""A grid on which some clients are slow: their replies come some rounds after the question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError
from fedmb.simulation.grid import InProcessGrid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.app import Message
    from flwr.clientapp import ClientApp


class LateGrid(InProcessGrid):
    """Answers slow nodes' messages only when so many more rounds were pushed; it can tell, so nobody waits in vain.

    A slow node has begun with its message, so that is not taken back when a round closes. It learns from the model
    that it was sent, at the time when its reply comes.

    Args:
        app: the ClientApp that every node runs.
        nodes: node config of each node, by node id.
        delays: rounds that a node's reply takes beyond its own, by node id; 0 where none is named.

    Raises:
        SettingsError: a delay is negative, or of no node.
    """

    def __init__(self, app: ClientApp, nodes: Mapping[int, Mapping[str, Any]], delays: Mapping[int, int]) -> None:
        super().__init__(app, nodes)
        if not delays.keys() <= nodes.keys() or min(delays.values(), default=0) < 0:
            raise SettingsError(f"delays must be 0 or more rounds of nodes among {sorted(nodes)}, got {dict(delays)}")
        self._delays = delays
        self._rounds = 0
        self._due: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take the messages of a round for later; answers their ids."""
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self._rounds += 1
        for message_id, message in zip(ids, messages, strict=True):
            self._due[message_id] = self._rounds + self._delays.get(message.metadata.dst_node_id, 0)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to those of the messages whose time has come."""
        yield from super().pull_messages(one for one in message_ids if self._is_due(one))

    def withdraw(self, message_ids: Iterable[str]) -> Iterable[str]:
        """Take back messages of quick nodes whose replies were not pulled; answers their ids."""
        return super().withdraw(one for one in message_ids if self._is_due(one))

    def can_answer(self, message_ids: Iterable[str]) -> bool:
        """Whether the reply to one of the messages can be had before the next round is pushed."""
        return any(self._is_due(one) for one in message_ids)

    def _is_due(self, message_id: str) -> bool:
        return self._due.get(message_id, self._rounds) <= self._rounds
