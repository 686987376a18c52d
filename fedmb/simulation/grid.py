"""A Flower Grid in this process: unmodified ServerApps, ClientApps and strategies run on it without a SuperLink.

This is the one module that touches Flower's private task identity, which `Message(...)` demands outside a task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.clientapp import ClientApp

log = logging.getLogger(__name__)

_SERVER_NODE_ID = 1  # what Flower gives its SuperLink
_RUN_ID = 1
_CLIENT_FAILED = 0  # Flower's ErrorCode.UNKNOWN, used for an exception out of a ClientApp


class InProcessGrid(Grid):
    """Runs each message's ClientApp in this process when its reply is pulled, in the order of pushing.

    Args:
        app: the ClientApp that every node runs.
        nodes: node config of each node, by node id; ids are positive.
        run_config: what `context.run_config` gives.

    An exception out of the app becomes an error reply, as on a real SuperNode.
    """

    def __init__(
        self, app: ClientApp, nodes: Mapping[int, Mapping[str, Any]], *, run_config: Mapping[str, Any] | None = None
    ) -> None:
        if not nodes or min(nodes) < 1:
            raise SettingsError(f"a grid needs nodes with ids from 1, got {sorted(nodes)}; number them from 2")
        self.app = app
        self._contexts = {
            node_id: Context(
                run_id=_RUN_ID,
                node_id=node_id,
                node_config=dict(config),
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for node_id, config in sorted(nodes.items())
        }
        self._pushed: dict[str, Message] = {}
        self._count = 0
        TaskIdentity.run_id = _RUN_ID
        TaskIdentity.task_id = _RUN_ID
        TaskIdentity.node_id = _SERVER_NODE_ID

    def set_run(self, run: Any) -> None:  # Flower's private Run
        """Nothing to set: there is one run, this one."""

    @property
    def run(self) -> Any:  # Flower's private Run
        """Absent: no SuperLink keeps a record of this run.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("an in-process grid has no run record; read context.run_id")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server to one node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes, rising."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages for later; answers their ids."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                raise SettingsError(
                    f"a message must go to one of the nodes {list(self._contexts)}, got {message.metadata.dst_node_id}"
                )
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._count:09d}"
            self._pushed[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages; each message is answered once."""
        for message_id in message_ids:
            message = self._pushed.pop(message_id, None)
            if message is not None:
                yield self._reply(message)

    def withdraw(self, message_ids: Iterable[str]) -> Iterable[str]:
        """Take back messages whose replies were not pulled; answers their ids."""
        return [message_id for message_id in message_ids if self._pushed.pop(message_id, None) is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull all; the timeout cannot pass, since nothing runs beside the caller."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _reply(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        try:
            return self.app(message, self._contexts[node_id])
        except Exception as error:
            log.exception("client app failed node=%d", node_id)
            return Message(Error(_CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
