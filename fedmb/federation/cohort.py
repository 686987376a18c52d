"""One round's exchange with its clients: who is asked, what comes back, what is let in."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedmb.arrays.flat import FlatArrays
from fedmb.errors import FedmbError, NotEnoughData, ShapeError, StaleUpdate
from fedmb.federation.exchange import Exchange
from fedmb.federation.model_record import flat_to_record
from fedmb.federation.strategy import Receiving
from fedmb.federation.wire import (
    ARRAYS,
    CONFIG,
    LAYOUT,
    LEDGER,
    POSITIONS,
    TERMS,
    WIRE,
    bytes_in,
    ledger_text,
    node_of,
    positions_text,
    read_update,
    sender,
)
from fedmb.ledger import Ledger, groups_within, partitions_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from threading import Event

    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedmb.aggregation.compress import Wire
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.closing import Closing
    from fedmb.ledger import StreamPartition
    from fedmb.training.round_terms import RoundTerms
    from fedmb.update import Update

log = logging.getLogger(__name__)

_CONNECTED_SECONDS = 0.1  # between two looks at who is connected


@dataclass(frozen=True, slots=True)
class Reply:
    """An accepted update with the message that brought it; Flower's strategies aggregate messages.

    Where the strategy is `Receiving`, it has the arrays, and neither of the two.
    """

    update: Update
    message: Message


@dataclass(slots=True)
class Cohort:
    """What came back from one round."""

    ledger: Ledger
    """The model's ledger, advanced by every accepted reply."""
    accepted: dict[str, Reply] = field(default_factory=dict)
    """Accepted replies, by client name."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons, by client name or `node <id>` where no name is known."""
    silent: set[str] = field(default_factory=set)
    """Clients that answered that they have nothing new."""
    resting: tuple[str, ...] = ()
    """Clients that were not asked, because they had nothing new in the last rounds."""
    closed_by: str = "replies"
    """What closed the round: replies, time, rows or drift."""
    bytes_down: int = 0
    """Bytes of the messages to the clients that were asked."""
    bytes_up: int = 0
    """Bytes of the replies that came, refused ones among them."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Clients with nothing new, whether they were asked or not, sorted."""
        return tuple(sorted({*self.silent, *self.resting} - self.accepted.keys()))

    @property
    def has_nothing_new(self) -> bool:
        """Whether clients answered, and not one of them had anything to learn from."""
        return bool(self.skipped) and not self.accepted

    def in_order(self) -> list[Reply]:
        """Accepted replies by client name: summing in this order gives the same bits whatever arrived first."""
        return [self.accepted[name] for name in sorted(self.accepted)]

    def give_back(self, before: Ledger, reason: str) -> None:
        """Let nothing count of what was accepted: no model was made of it, so its rows are still to be learnt."""
        self.rejected |= dict.fromkeys(sorted(self.accepted), reason)
        self.accepted.clear()
        self.ledger = before


class Collector:
    """Asks nodes and admits their replies; remembers which client stands behind which node.

    Args:
        grid: Flower's grid.
        closing: what closes a round early.
        deadline_seconds: how long replies are waited for.
        strategy: takes updates as they are accepted, if it can.
        wire: how replies travel.
    """

    def __init__(self, grid: Grid, closing: Closing, deadline_seconds: float, strategy: Strategy, wire: Wire) -> None:
        self.grid = grid
        self._receiver = strategy if isinstance(strategy, Receiving) else None
        self.closing = closing
        self.wire = wire
        self._wait_seconds = closing.wait_seconds(deadline_seconds)
        self._exchange = Exchange(grid, deadline_seconds)
        self._client_of_node: dict[int, str] = {}

    def wait_for_nodes(self, count: int, seconds: float, stop: Event) -> None:
        """Block until `count` nodes are connected or `stop` is set.

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
            if stop.wait(_CONNECTED_SECONDS):
                return

    def collect(self, messages: Iterable[Message], state: ServerState, terms: RoundTerms) -> Cohort:
        """Send `messages`, which carry `state` and `terms`, and admit what comes back before the round closes.

        Clients that rest are left out, and so are nodes that still work for an earlier round. Whatever strategies put
        into the messages as the model, its flat record is what travels.
        """
        state = replace(state, arrays=FlatArrays.packed(state.arrays))
        model, layout = flat_to_record(state.arrays)
        form = {LAYOUT: layout.text, WIRE: self.wire.model_dump_json()}
        free = [one for one in messages if one.metadata.dst_node_id not in self._exchange.busy_nodes()]
        awake = [one for one in free if self._client_of_node.get(one.metadata.dst_node_id) not in terms.resting]
        cohort = Cohort(state.ledger, resting=terms.resting)
        # Where a round closes early, everyone is the first to be asked in turn.
        turn = state.version % len(awake) if awake and self.closing.is_early else 0
        sent = [self._addressed(one, state, terms, model, form) for one in awake[turn:] + awake[:turn]]
        cohort.bytes_down = sum(bytes_in(message) for message in sent)
        self._exchange.push(sent)
        try:
            self._admit_arrivals(state, terms, cohort)
        finally:
            self._exchange.close()
        return cohort

    def _admit_arrivals(self, state: ServerState, terms: RoundTerms, cohort: Cohort) -> None:
        for together in self._exchange.arrivals(self._wait_seconds):
            for message in together:
                cohort.bytes_up += bytes_in(message)
                self._admit(message, state, terms, cohort)
            if reason := self.closing.reason([reply.update for reply in cohort.accepted.values()]):
                cohort.closed_by = reason
                return
        if self._exchange.is_open:  # the replies that were awaited are not all in
            cohort.closed_by = "time"

    def _admit(self, message: Message, state: ServerState, terms: RoundTerms, cohort: Cohort) -> None:
        node = node_of(message)
        name = sender(message) or self._client_of_node.get(node, f"node {node}")
        try:
            update = admitted(message, state, cohort, self.wire)
            ledger = advanced(update, name, state, cohort)
        except FedmbError as error:
            log.warning("update rejected round=%d client=%s reason=%s", state.version + 1, name, error)
            cohort.rejected[name] = str(error)
            # Only what a reply held counts as malice: a client that failed or came late is no bad one fewer.
            if self._receiver is not None and isinstance(error, ShapeError):
                self._receiver.refuse(name)
            return
        self._client_of_node[node] = name
        if terms.skips_silent and not (update.weight or update.rows or update.spans):
            cohort.silent.add(name)
            return
        cohort.ledger = ledger
        if self._receiver is not None and update.weight > 0:
            message = self._receiver.receive(message, update)
            update = replace(update, arrays={})
        cohort.accepted[name] = Reply(update, message)

    def _addressed(
        self, message: Message, state: ServerState, terms: RoundTerms, model: ArrayRecord, form: Mapping[str, str]
    ) -> Message:
        """The message with its own client's position and groups only, once the client behind its node is known."""
        client = self._client_of_node.get(message.metadata.dst_node_id)
        config = message.content.get(CONFIG)
        if isinstance(config, ConfigRecord):
            own = ConfigRecord({**config, **form, TERMS: (replace(terms, resting=()) if client else terms).to_json()})
            if client is not None:
                position = state.positions.get(client, {})
                own[POSITIONS] = positions_text({client: position})
                own[LEDGER] = ledger_text(of_groups(state.ledger, position))
            message.content = RecordDict({**message.content, ARRAYS: model, CONFIG: own})
        return message


def of_groups(ledger: Ledger, position: object) -> Ledger:
    """The part of a ledger that concerns the groups that a client's position names."""
    groups = groups_within(position)
    return Ledger({one: place for one, place in ledger.items() if f"{one.log}/{one.topic}" in groups})


def admitted(message: Message, state: ServerState, cohort: Cohort, wire: Wire) -> Update:
    """The update in a reply, if it may take part in the round; whether its spans fit is the ledger's to say.

    Raises:
        NotEnoughData: the client answered with an error.
        ShapeError, VersionMismatch: the reply is not a fitting update.
        StaleUpdate: it starts from another version, or the client is in already.
    """
    if message.has_error():
        raise NotEnoughData(message.error.reason or f"the client failed with code {message.error.code}")
    update = read_update(message, state.arrays, wire)
    if update.base_version != state.version:
        raise StaleUpdate(
            f"an update must start from version {state.version}, got {update.base_version}; it came late or twice"
        )
    twice = [client for client in update.clients if client in cohort.accepted]
    if twice:
        raise StaleUpdate(
            f"a client counts once in a round, {twice[0]!r} is in already; give every client a name of its own"
        )
    return update


def advanced(update: Update, client: str, state: ServerState, cohort: Cohort) -> Ledger:
    """The cohort's ledger after an update's spans.

    Raises:
        StaleUpdate: a span does not start where it stands; where another client learns its partition, that is named.
    """
    try:
        return cohort.ledger.advanced(update.spans)
    except StaleUpdate as error:
        positions = dict(state.positions)
        for reply in cohort.accepted.values():
            positions.update(reply.update.positions)
        amiss = [one for one, span in update.spans.items() if span.start != cohort.ledger.position(one)]
        for partition in amiss:
            if (owner := owner_of(partition, positions, other_than=client)) is not None:
                raise StaleUpdate(
                    f"a partition must have one owner, {partition} is learnt by {owner!r}, got rows of it from "
                    f"{client!r} too; give {client!r} a partition of its own, or let a group= deal them out"
                ) from error
        raise


def owner_of(partition: StreamPartition, positions: Mapping[str, Mapping[str, Any]], *, other_than: str) -> str | None:
    """The client in whose position a partition stands, unless a consumer group put it there; None for no other."""
    for client, position in sorted(positions.items()):
        is_dealt = f"{partition.log}/{partition.topic}" in groups_within(position)
        if client != other_than and not is_dealt and str(partition) in partitions_within(position.get("source")):
            return client
    return None


def reasons_in(rejected: Mapping[str, str]) -> str:
    """The reasons of a fruitless round in one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "no node answered in time"
