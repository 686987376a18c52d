"""One round's exchange with its clients: who is asked, what comes back, what is let in."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict

from fedmb.errors import FedmbError, NotEnoughData, StaleUpdate
from fedmb.federation.wire import CONFIG, POSITIONS, node_of, positions_text, read_update, sender

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flwr.serverapp import Grid

    from fedmb.federation.checkpoint import ServerState
    from fedmb.ledger import Ledger
    from fedmb.update import Update

log = logging.getLogger(__name__)

_PULL_SECONDS = 0.1  # between two looks for replies; Flower's own loop waits 3 s


@dataclass(frozen=True, slots=True)
class Reply:
    """An accepted update with the message that brought it; Flower's strategies aggregate messages."""

    update: Update
    message: Message


@dataclass(slots=True)
class Cohort:
    """What came back from one round."""

    accepted: dict[str, Reply] = field(default_factory=dict)
    """Accepted replies, by client name."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons, by client name or `node <id>` where no name is known."""

    def in_order(self) -> list[Reply]:
        """Accepted replies by client name: summing in this order gives the same bits whatever arrived first."""
        return [self.accepted[name] for name in sorted(self.accepted)]


class Collector:
    """Asks nodes and admits their replies; remembers which client stands behind which node."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._client_of_node: dict[int, str] = {}

    def wait_for_nodes(self, count: int, seconds: float) -> None:
        """Block until `count` nodes are connected.

        Raises:
            NotEnoughData: they were not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (connected := len(list(self.grid.get_node_ids()))) < count:
            if time.monotonic() > deadline:
                raise NotEnoughData(
                    f"a round needs {count} connected clients, got {connected} within {seconds:g} s; "
                    "start clients or lower rounds.min_clients"
                )
            time.sleep(_PULL_SECONDS)

    def collect(self, messages: Iterable[Message], state: ServerState, deadline_seconds: float) -> Cohort:
        """Send `messages`, which carry `state`, and admit what comes back before the deadline."""
        cohort = Cohort()
        ledger = state.ledger
        for message in exchange(self.grid, [self._addressed(one, state) for one in messages], deadline_seconds):
            name = sender(message) or self._client_of_node.get(node_of(message), f"node {node_of(message)}")
            try:
                update = admitted(message, state, ledger, cohort)
            except FedmbError as error:
                log.warning("update rejected round=%d client=%s reason=%s", state.version + 1, name, error)
                cohort.rejected[name] = str(error)
            else:
                ledger = ledger.advanced(update.spans)
                cohort.accepted[name] = Reply(update, message)
                self._client_of_node[node_of(message)] = name
        return cohort

    def _addressed(self, message: Message, state: ServerState) -> Message:
        """The message with its own client's position only, once the client behind its node is known."""
        client = self._client_of_node.get(message.metadata.dst_node_id)
        config = message.content.get(CONFIG)
        if client is not None and isinstance(config, ConfigRecord):
            positions = {client: state.positions.get(client, {})}
            own = ConfigRecord({**config, POSITIONS: positions_text(positions)})
            message.content = RecordDict({**message.content, CONFIG: own})
        return message


def admitted(message: Message, state: ServerState, ledger: Ledger, cohort: Cohort) -> Update:
    """The update in a reply, if it may take part in the round.

    Raises:
        NotEnoughData: the client answered with an error.
        ShapeError, VersionMismatch: the reply is not a fitting update.
        StaleUpdate: it starts from another version, skips or repeats records, or the client is in already.
    """
    if message.has_error():
        raise NotEnoughData(message.error.reason or f"the client failed with code {message.error.code}")
    update = read_update(message, state.arrays)
    if update.base_version != state.version:
        raise StaleUpdate(
            f"an update must start from version {state.version}, got {update.base_version}; it came late or twice"
        )
    twice = [client for client in update.clients if client in cohort.accepted]
    if twice:
        raise StaleUpdate(
            f"a client counts once in a round, {twice[0]!r} is in already; give every client a name of its own"
        )
    ledger.advanced(update.spans)
    return update


def exchange(grid: Grid, messages: list[Message], deadline_seconds: float) -> Iterator[Message]:
    """Push messages and give replies as they arrive, until all have come or the deadline has passed."""
    deadline = time.monotonic() + deadline_seconds
    waiting = set(grid.push_messages(messages))
    while waiting:
        for reply in grid.pull_messages(sorted(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if waiting and time.monotonic() > deadline:
            log.warning("deadline passed unanswered=%d seconds=%g", len(waiting), deadline_seconds)
            return
        if waiting:
            time.sleep(_PULL_SECONDS)


def reasons_in(rejected: Mapping[str, str]) -> str:
    """The reasons of a fruitless round in one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "no node answered in time"
