"""One round's exchange with its clients: who is asked, what comes back, what the guard lets in."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedmb.arrays.flat import FlatArrays
from fedmb.errors import NotEnoughData
from fedmb.federation.cohort import Cohort, Reply
from fedmb.federation.exchange import Exchange
from fedmb.federation.guard import Rejected, Standing, guard
from fedmb.federation.late import RecentVersions, rebased
from fedmb.federation.model_record import flat_to_record
from fedmb.federation.ownership import of_groups, owners_in
from fedmb.federation.record_names import ARRAYS, CONFIG, LAYOUT, LEDGER, POSITIONS, TERMS, WIRE
from fedmb.federation.senders import Senders
from fedmb.federation.strategy import Receiving
from fedmb.federation.wire import bytes_in, ledger_text, positions_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from threading import Event

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedmb.aggregation.compress import Wire
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.closing import Closing
    from fedmb.federation.exchange import Arrival
    from fedmb.federation.guard import GuardLimits
    from fedmb.federation.late import Late
    from fedmb.federation.reply_times import ReplyTimes
    from fedmb.training.round_terms import RoundTerms

log = logging.getLogger(__name__)

_CONNECTED_SECONDS = 0.25  # between two looks at who is connected; each costs the SuperLink 8 ms of a core


class Rules(Protocol):
    """What a round waits for and lets in, as `fedmb.federation.rounds.Rounds` says it."""

    @property
    def closing(self) -> Closing:
        """What closes it early."""
        ...

    @property
    def deadline_seconds(self) -> float:
        """How long it waits at most."""
        ...

    @property
    def quorum(self) -> int:
        """Clients that must have answered before anything but time closes it."""
        ...

    @property
    def late(self) -> Late:
        """What becomes of late updates."""
        ...

    @property
    def guard(self) -> GuardLimits:
        """What an update may hold at most."""
        ...

    @property
    def closes_early(self) -> bool:
        """Whether a reply may close it while others are under way."""
        ...

    def enough(self, connected: int) -> float:
        """Updates that close it, of so many connected nodes."""
        ...


class Collector:
    """Asks nodes and lets their replies in; remembers which client stands behind which node.

    Args:
        grid: Flower's grid.
        rounds: how long to wait, what closes a round early, what becomes of late updates, and what the guard lets
            through.
        strategy: takes updates as they are accepted, if it can.
        wire: how replies travel.
        times: how long clients take.
    """

    def __init__(self, grid: Grid, rounds: Rules, strategy: Strategy, wire: Wire, times: ReplyTimes) -> None:
        self.grid = grid
        self.rounds = rounds
        self.closing = rounds.closing
        self.wire = wire
        self._receiver = strategy if isinstance(strategy, Receiving) else None
        self._exchange = Exchange(grid, rounds.deadline_seconds)
        self._senders = Senders()
        self._times = times
        self._recent = RecentVersions(rounds.late)

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

    def collect(
        self, messages: Iterable[Message], state: ServerState, terms: RoundTerms, *, is_patient: bool = False
    ) -> Cohort:
        """Send `messages`, which carry `state` and `terms`, and admit what comes back before the round closes.

        Clients that rest are left out, and so are nodes that still work for an earlier round. Whatever strategies put
        into the messages as the model, its flat record is what travels. A patient round waits until the deadline,
        however quick its clients usually are.
        """
        state = replace(state, arrays=FlatArrays.packed(state.arrays))
        model, layout = flat_to_record(state.arrays)
        form = {LAYOUT: layout.text, WIRE: self.wire.model_dump_json()}
        free = [one for one in messages if one.metadata.dst_node_id not in self._exchange.busy_nodes()]
        awake = [one for one in free if self._senders.client_of(one.metadata.dst_node_id) not in terms.resting]
        cohort = Cohort(state.ledger, resting=terms.resting)
        # Where a round closes early, everyone is the first to be asked in turn.
        turn = state.version % len(awake) if awake and self.rounds.closes_early else 0
        sent = [self._addressed(one, state, terms, model, form) for one in awake[turn:] + awake[:turn]]
        cohort.bytes_down = sum(bytes_in(message) for message in sent)
        connected = list(self.grid.get_node_ids())
        self._senders.open(connected, self._exchange.owing_nodes())
        self._exchange.push(sent)
        asked = [self._senders.client_of(one.metadata.dst_node_id) for one in sent]
        usual = math.inf if is_patient else self._times.wait_seconds(asked)
        standing = Standing(
            state=state,
            bases=self._recent.opened(state),
            owners=owners_in(state.positions),
            wire=self.wire,
            limits=self.rounds.guard,
            usual_norm=median(state.norms) if state.norms else math.inf,
        )
        wait = min(usual, self.closing.wait_seconds(self.rounds.deadline_seconds))
        try:
            self._admit_arrivals(standing, terms, cohort, wait, self.rounds.enough(len(connected)))
        finally:
            self._exchange.close()
        return cohort

    def _admit_arrivals(
        self, standing: Standing, terms: RoundTerms, cohort: Cohort, seconds: float, enough: float
    ) -> None:
        waits_for_late = math.isfinite(self.rounds.late.buffer)
        for together in self._exchange.arrivals(seconds, waits_for_late=waits_for_late):
            for arrival in together:
                self._admit(arrival, standing, terms, cohort)
            if cohort.heard < self.rounds.quorum:
                continue
            if reason := self.closing.reason([reply.update for reply in cohort.accepted.values()]):
                cohort.closed_by = reason
                return
            if len(cohort.accepted) >= enough:
                is_awaited = self._exchange.is_open or (waits_for_late and self._exchange.busy_nodes())
                cohort.closed_by = "enough" if is_awaited else "replies"
                return
        if self._exchange.is_open:  # the replies that were awaited are not all in
            cohort.closed_by = "time"

    def _admit(self, arrival: Arrival, standing: Standing, terms: RoundTerms, cohort: Cohort) -> None:
        if arrival.message is None:
            client = self._senders.client_of(arrival.node) or f"node {arrival.node}"
            said = f"a reply must be one of Flower's messages, got {arrival.damage}; look at the client"
            self._refuse(Rejected(client, said, is_bad=True), standing, cohort)
            return
        message = arrival.message
        answer = guard(message, arrival.node, standing, cohort, self._senders)
        if isinstance(answer, Rejected):
            if message.has_content():  # it learnt something, if only too late
                self._times.observe(answer.client, arrival.seconds)
            self._refuse(answer, standing, cohort)
            return
        update = answer.update
        (client,) = update.clients
        if self._receiver is not None and (reason := self._receiver.objection(update)):
            self._refuse(Rejected(client, reason, is_bad=True, num_bytes=answer.num_bytes), standing, cohort)
            return
        cohort.bytes_up += answer.num_bytes
        self._senders.learn(arrival.node, client)
        if update.weight > 0:
            self._times.observe(client, arrival.seconds)
        if terms.skips_silent and not (update.weight or update.rows or update.spans):
            cohort.silent.add(client)
            return
        cohort.ledger = answer.ledger
        if staleness := standing.state.version - update.base_version:
            cohort.late[client] = staleness
            base = standing.bases[update.base_version]
            factor = self.rounds.late.factor(staleness)
            update = rebased(update, base.arrays, standing.state.arrays, factor)
            message.content = RecordDict({**message.content, ARRAYS: ArrayRecord()})  # what came is of another model
            log.info("late update counted client=%s versions=%d factor=%.3g", client, staleness, factor)
        if self._receiver is not None and update.weight > 0:
            message = self._receiver.receive(message, update)
            update = replace(update, arrays={})
        cohort.accepted[client] = Reply(update, message, answer.norm)

    def _refuse(self, answer: Rejected, standing: Standing, cohort: Cohort) -> None:
        number = standing.state.version + 1
        log.warning("update rejected round=%d client=%s reason=%s", number, answer.client, answer.reason)
        cohort.bytes_up += answer.num_bytes
        cohort.rejected[answer.client] = answer.reason
        # Only what a reply held counts as malice: a client that failed or came late is no bad one fewer.
        if self._receiver is not None and answer.is_bad:
            self._receiver.refuse(answer.client)

    def _addressed(
        self, message: Message, state: ServerState, terms: RoundTerms, model: ArrayRecord, form: Mapping[str, str]
    ) -> Message:
        """The message with its own client's position and groups only, once the client behind its node is known."""
        client = self._senders.client_of(message.metadata.dst_node_id)
        config = message.content.get(CONFIG)
        if isinstance(config, ConfigRecord):
            own = ConfigRecord({**config, **form, TERMS: (replace(terms, resting=()) if client else terms).to_json()})
            if client is not None:
                position = state.positions.get(client, {})
                own[POSITIONS] = positions_text({client: position})
                own[LEDGER] = ledger_text(of_groups(state.ledger, position))
            message.content = RecordDict({**message.content, ARRAYS: model, CONFIG: own})
        return message
