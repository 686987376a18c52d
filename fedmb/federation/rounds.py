"""Rounds on Flower's public Grid.

while state.version < rounds.last:
    wait until enough nodes are connected
    messages = strategy.configure_train(...)       # any Flower strategy
    cohort   = replies that fit the model and start at its ledger; the others are named and dropped
    arrays   = strategy.aggregate_train(...)       # ours has taken each model as it came; Flower's are handed what may
                                                   # be averaged, and whole numbers come from the heaviest client
    state    = arrays + ledger advanced by the spans + positions of the clients
    on_round(state, report)                        # checkpoint and telemetry

A never-ending run makes no version of a round in which nobody had anything new: it waits and asks again.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from statistics import median
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from fedmb.aggregation.compress import Wire
from fedmb.aggregation.stack import Stack
from fedmb.arrays.flat import FlatArrays
from fedmb.errors import NotEnoughData
from fedmb.federation.averageable import averageable
from fedmb.federation.closing import Closing
from fedmb.federation.cohort import reasons_in
from fedmb.federation.collector import Collector
from fedmb.federation.guard import GuardLimits
from fedmb.federation.model_record import aggregated, arrays_from_record, arrays_to_record, averaged_record
from fedmb.federation.round_figures import alarms_of, monitored, summed
from fedmb.federation.silence import NewsWait, Silence
from fedmb.federation.strategy import Receiving
from fedmb.federation.strategy_memory import begin_from_what_is_sent, memory_of, remember
from fedmb.federation.wire import train_config
from fedmb.section import Section
from fedmb.telemetry.convergence import Convergence, Stopping
from fedmb.telemetry.events import RoundReport
from fedmb.training.round_terms import RoundTerms
from fedmb.update import Arrays, Update, added

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.cohort import Cohort

log = logging.getLogger(__name__)

_USUAL_ROUNDS = 8  # whose changes say what is usual: changes shrink as a model learns, within tens of rounds
_FRUITLESS_ROUNDS = 3  # in a row, before a run stops: a fault of all clients does not heal by itself


Count: TypeAlias = Annotated[int, Field(ge=1)] | Literal["forever"]
"""A number of rounds, or none that is the last."""


class Rounds(Section):
    """How many rounds there are and whom they wait for."""

    count: Count = 30
    """Rounds until the run ends; "forever" goes on until SIGTERM, and skips clients that have nothing new."""
    min_clients: int = Field(default=1, ge=1)
    """Nodes that must be connected before a round starts."""
    fraction_train: float = Field(default=1.0, gt=0, le=1)
    """Share of the connected nodes that train in a round."""
    connect_seconds: float = Field(default=300.0, gt=0)
    """How long a round waits for `min_clients` before the run fails."""
    deadline_seconds: float = Field(default=600.0, gt=0)
    """How long a round waits for replies; later ones are dropped."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """How long SIGTERM lets an open round go on; one that is given up is trained again when the run is resumed."""
    longest_pause: int = Field(default=16, ge=0)
    """forever: rounds that a client is left out at most while it has nothing new: 1, then 2, 4 and so on."""
    closing: Closing = Closing()
    guard: GuardLimits = GuardLimits()
    stopping: Stopping = Stopping()

    @property
    def is_endless(self) -> bool:
        """Whether no round is the last."""
        return self.count == "forever"

    @property
    def last(self) -> float:
        """Number of the last round; inf where there is none."""
        return math.inf if self.count == "forever" else self.count


def count_from(text: str | None) -> int | str | None:
    """What `--rounds` was given: a number where it is one; the settings say what else may stand there."""
    return int(text) if text is not None and text.isdecimal() else text


@dataclass(frozen=True, slots=True)
class Watch:
    """What a server can see beside the replies; each part may be absent."""

    score: Callable[[ServerState], Mapping[str, float]] | None = None
    """Figures of a model on held-out rows."""
    lag: Callable[[ServerState], int] | None = None
    """Records that streams hold beyond a model's ledger."""
    set_aside: Callable[[], int] | None = None
    """Records that could not be decoded so far."""


class RoundLoop:
    """Runs rounds of one strategy on one grid, from any state on.

    Args:
        grid: Flower's grid, deployed or simulated.
        strategy: any Flower strategy.
        rounds: how many, and whom to wait for.
        on_round: called with each new state and its report, before the next round starts.
        watch: held-out scores, lag and rejected records, where the server can see them.
        stop: set from outside to end after the current round.
        training: settings of the local training that every client is to follow.
        wire: how the clients' models travel; as they are if left out.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: Strategy,
        rounds: Rounds,
        *,
        on_round: Callable[[ServerState, RoundReport], None],
        watch: Watch | None = None,
        stop: Event | None = None,
        training: Mapping[str, Any] | None = None,
        wire: Wire | None = None,
    ) -> None:
        self.grid = grid
        self.strategy = strategy
        self.rounds = rounds
        self.on_round = on_round
        self.watch = watch or Watch()
        self.convergence = Convergence(rounds.stopping)
        self.silence = Silence(rounds.longest_pause)
        self.stop = stop or Event()
        self.training = training
        self._collector = Collector(grid, rounds, strategy, wire or Wire())

    def run(self, state: ServerState) -> ServerState:
        """Rounds from `state.version + 1` to the last; answers the final state.

        Raises:
            NotEnoughData: too few nodes connected in time, or three rounds in a row brought no usable reply.
            SettingsError: the metric that is to stop the run is none that the run has.
        """
        fruitless, news, score = 0, NewsWait(), self.watch.score
        self.convergence.check((lambda: score(state)) if score else None)
        self.convergence.load_state_dict(state.convergence)
        self.silence.load_state_dict(state.silence)
        remember(self.strategy, state.strategy)
        while state.version < self.rounds.last and not self.stop.is_set() and not self.convergence.reason:
            started = time.monotonic()
            self.wait_for_nodes()
            if self.stop.is_set():
                break
            cohort = self._ask(state, everyone=news.is_on or fruitless > 0)
            if cohort.has_nothing_new:
                fruitless = 0
                news.wait(self.stop, cohort.skipped)
                continue
            news.end()
            arrays = self._combined(state, cohort)
            fruitless = 0 if cohort.accepted else fruitless + 1
            if fruitless == _FRUITLESS_ROUNDS:
                raise NotEnoughData(
                    f"a round needs at least one usable reply, {fruitless} rounds in a row had none; last reasons: "
                    f"{reasons_in(cohort.rejected)}"
                )
            if cohort.accepted or not self.rounds.is_endless:
                state = self._closed(state, cohort, arrays, time.monotonic() - started)
        return state

    def wait_for_nodes(self) -> None:
        """Block until as many clients are connected as a round needs, or the run is to stop.

        Raises:
            NotEnoughData: they were not in time.
        """
        self._collector.wait_for_nodes(self.rounds.min_clients, self.rounds.connect_seconds, self.stop)

    def _ask(self, state: ServerState, *, everyone: bool) -> Cohort:
        closing, number = self.rounds.closing, state.version + 1
        terms = RoundTerms(seconds=closing.seconds, until_alarm=closing.drift)
        if self.rounds.is_endless:
            resting = () if everyone else self.silence.resting(number)
            silence = closing.silence_seconds
            terms = replace(terms, skips_silent=True, silence_seconds=silence, resting=resting)
        begin_from_what_is_sent(self.strategy)
        messages = self.strategy.configure_train(
            number,
            arrays_to_record(state.arrays)
            if isinstance(self.strategy, Receiving)
            else averaged_record(FlatArrays.packed(state.arrays)),
            train_config(state.version, state.positions, seed=state.seed, training=self.training, ledger=state.ledger),
            self.grid,
        )
        cohort = self._collector.collect(messages, state, terms)
        self.silence.observe(number, silent=cohort.silent - {*cohort.resting}, heard=cohort.accepted)
        return cohort

    def _combined(self, state: ServerState, cohort: Cohort) -> Arrays:
        """The strategy's model of what was accepted; the previous one where it makes none, and then nothing counts."""
        learnt = [reply for reply in cohort.in_order() if reply.update.weight > 0]
        if not learnt:
            return state.arrays
        before, takes_models = FlatArrays.packed(state.arrays), isinstance(self.strategy, Receiving)
        messages = [reply.message for reply in learnt] if takes_models else averageable(learnt)
        record, _ = self.strategy.aggregate_train(state.version + 1, messages)
        if record is not None and takes_models:
            after = FlatArrays.packed(arrays_from_record(record, before))
            before.layout.check(after.layout)
            return after
        if record is not None:
            # A counter is a fact of one client and no business of Flower's: the heaviest client's is kept.
            heaviest = max(learnt, key=lambda reply: reply.update.weight)
            return aggregated(before, record, FlatArrays.packed(heaviest.update.arrays))
        said = self.strategy.shortfall if isinstance(self.strategy, Receiving) else ""
        name = type(self.strategy).__name__
        cohort.give_back(state.ledger, said or f"{name} made no model of {len(learnt)} updates; see its log")
        return state.arrays

    def _closed(self, before: ServerState, cohort: Cohort, arrays: Arrays, seconds: float) -> ServerState:
        """The state after a round, once it was told and kept."""
        state = self._advanced(before, cohort, arrays)
        report = self._report(before.arrays, state, cohort, seconds)
        if isinstance(self.strategy, Receiving):
            self.strategy.stack.close()  # updates need no memory while clients learn anew
        if reason := self.convergence.observe(report):
            log.info("run converged round=%d reason=%s", state.version, reason)
        state = replace(
            state,
            convergence=self.convergence.state_dict(),
            silence=self.silence.state_dict(),
            strategy=memory_of(self.strategy),
        )
        self.on_round(state, report)
        return state

    def _advanced(self, state: ServerState, cohort: Cohort, arrays: Arrays) -> ServerState:
        positions, rows = dict(state.positions), dict(state.learnt)
        for client, reply in sorted(cohort.accepted.items()):
            positions |= reply.update.positions
            rows[client] = added(rows.get(client, {}), reply.update.rows)
        return replace(
            state,
            version=state.version + 1,
            arrays=arrays,
            ledger=cohort.ledger,
            positions=positions,
            norms=self._norms(state, cohort),
            learnt=dict(sorted(rows.items())),
        )

    def _norms(self, state: ServerState, cohort: Cohort) -> tuple[float, ...]:
        """Median lengths of the last rounds' changes, where the guard is to compare with them."""
        lengths = [reply.norm for reply in cohort.accepted.values() if reply.update.weight > 0]
        if not lengths or math.isinf(self.rounds.guard.norm_medians):
            return state.norms
        return (*state.norms, median(lengths))[-_USUAL_ROUNDS:]

    def _report(self, before: Arrays, state: ServerState, cohort: Cohort, seconds: float) -> RoundReport:
        updates = [reply.update for reply in cohort.in_order()]
        rows, sums = summed(updates)
        units = sums.get("units", 0.0)
        return RoundReport(
            round=state.version,
            seconds=seconds,
            train_loss=sums.get("loss", math.nan) / units if units else math.nan,
            scores=dict(self.watch.score(state)) if self.watch.score else {},
            rows=rows,
            lag=self.watch.lag(state) if self.watch.lag else None,
            clients=len(cohort.accepted),
            accepted=tuple(sorted(cohort.accepted)),
            rejected=cohort.rejected,
            skipped=cohort.skipped,
            closed_by=cohort.closed_by,
            bytes_down=cohort.bytes_down,
            bytes_up=cohort.bytes_up,
            set_aside=self.watch.set_aside() if self.watch.set_aside else 0,
            monitor=monitored(updates, before, state.arrays, self._stack(updates)),
            alarms=alarms_of(updates),
        )

    def _stack(self, updates: Sequence[Update]) -> Stack:
        """The accepted models: what the strategy received, or what the updates hold."""
        if isinstance(self.strategy, Receiving):
            return self.strategy.stack
        stack = Stack(memory_bytes=math.inf)
        for update in updates:
            if update.weight > 0:
                stack.put(", ".join(update.clients), update.arrays, update.weight)
        return stack
