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
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from fedmb.aggregation.compress import Wire
from fedmb.arrays.flat import FlatArrays
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.federation.closed_round import Watch, advanced, report_of
from fedmb.federation.closing import Closing
from fedmb.federation.cohort import reasons_in
from fedmb.federation.collector import Collector
from fedmb.federation.combining import combined, exhausted, reason_before
from fedmb.federation.guard import GuardLimits
from fedmb.federation.late import Late
from fedmb.federation.model_record import arrays_to_record, averaged_record
from fedmb.federation.reply_times import FILE, ReplyTimes
from fedmb.federation.silence import NewsWait, Silence
from fedmb.federation.strategy import Receiving
from fedmb.federation.strategy_memory import begin_from_what_is_sent, memory_of, remember
from fedmb.federation.wire import train_config
from fedmb.section import Section
from fedmb.telemetry.convergence import Convergence, Stopping
from fedmb.training.round_terms import RoundTerms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.cohort import Cohort
    from fedmb.telemetry.events import RoundReport
    from fedmb.update import Arrays

log = logging.getLogger(__name__)

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
    """Share of the connected nodes that train in a round, or, with `over_sampling`, whose updates it needs."""
    over_sampling: float = Field(default=0.0, ge=0, le=10)
    """Share of more nodes that are asked than are needed; the round closes as soon as those needed have replied."""
    quorum: int = Field(default=1, ge=1)
    """Clients that must have answered; a round with fewer makes no model, and its rows are learnt again."""
    connect_seconds: float = Field(default=300.0, gt=0)
    """How long a round waits for `min_clients` before the run fails."""
    deadline_seconds: float = Field(default=600.0, gt=0)
    """How long a round waits for replies at most."""
    deadline_medians: float = Field(default=4.0, gt=1)
    """How long it waits, in usual reply times of the slowest client that it asked; inf waits `deadline_seconds`."""
    deadline_least_seconds: float = Field(default=30.0, gt=0)
    """It waits so long in any case: a client whose process starts anew needs some seconds beside learning."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """How long SIGTERM lets an open round go on; one that is given up is trained again when the run is resumed."""
    longest_pause: int = Field(default=16, ge=0)
    """forever: rounds that a client is left out at most while it has nothing new: 1, then 2, 4 and so on."""
    closing: Closing = Closing()
    late: Late = Late()
    guard: GuardLimits = GuardLimits()
    stopping: Stopping = Stopping()

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Rounds:
        if self.over_sampling and self.fraction_train == 1:
            raise ValueError(
                f"over_sampling asks more nodes than a round needs, got {self.over_sampling:g} with fraction_train 1, "
                "which needs all; lower fraction_train"
            )
        if self.over_sampling and math.isfinite(self.late.buffer):
            raise ValueError(
                f"late.buffer says after how many updates a round closes, got {self.late.buffer:g} beside "
                f"over_sampling {self.over_sampling:g}, which says it too; leave one out"
            )
        if self.quorum > self.late.buffer:
            raise ValueError(
                f"a version of late.buffer = {self.late.buffer:g} updates never has a quorum of {self.quorum}; lower it"
            )
        return self

    @property
    def closes_early(self) -> bool:
        """Whether a reply may close the round while others are under way."""
        return self.closing.is_early or self.over_sampling > 0 or math.isfinite(self.late.buffer)

    def enough(self, connected: int) -> float:
        """Updates that close a round of so many connected nodes; inf where all that are asked are waited for."""
        return math.ceil(connected * self.fraction_train) if self.over_sampling else self.late.buffer

    def check_against(self, clients: int, *, key: str) -> None:
        """Refuse a quorum that rounds of so many clients could not have.

        Args:
            clients: fewest that are connected when a round starts.
            key: name of the setting that says how many there are.

        Raises:
            SettingsError: fewer are asked.
        """
        asked = min(clients, math.ceil(math.ceil(clients * self.fraction_train) * (1 + self.over_sampling)))
        if asked < self.quorum:
            raise SettingsError(
                f"a quorum of {self.quorum} needs as many clients in a round, got {key} = {clients} of which {asked} "
                f"are asked; raise {key} or lower rounds.quorum",
                key=key,
            )

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
        memory: where reply times outlive the process; nowhere if left out.
        task: what every client is to learn, as `fedmb.training.task_digest` names it; not compared if left out.
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
        memory: Path | None = None,
        task: str = "",
    ) -> None:
        self.grid = grid
        self.strategy = strategy
        self.rounds = rounds
        self.on_round = on_round
        self.watch = watch or Watch()
        self.convergence = Convergence(rounds.stopping)
        self.silence = Silence(rounds.longest_pause)
        self.stop = stop or Event()
        self.training, self.task = training, task
        self._times = ReplyTimes(
            rounds.deadline_medians,
            rounds.deadline_least_seconds,
            rounds.deadline_seconds,
            memory / FILE if memory is not None else None,
        )
        self._collector = Collector(grid, rounds, strategy, wire or Wire(), self._times)

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
        self.convergence.reason = reason_before(self.strategy, state.version, self.convergence.reason)
        while state.version < self.rounds.last and not self.stop.is_set() and not self.convergence.reason:
            started = time.monotonic()
            self.wait_for_nodes()
            if self.stop.is_set():
                break
            cohort = self._ask(state, everyone=news.is_on or fruitless > 0, is_patient=fruitless > 0)
            if cohort.has_nothing_new:
                fruitless = 0
                news.wait(self.stop, cohort.skipped)
                continue
            news.end()
            arrays = combined(self.strategy, state, cohort)
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

    def _ask(self, state: ServerState, *, everyone: bool, is_patient: bool) -> Cohort:
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
            train_config(
                state.version,
                state.positions,
                seed=state.seed,
                training=self.training,
                ledger=state.ledger,
                task=self.task,
                parameters=state.parameters,
            ),
            self.grid,
        )
        cohort = self._collector.collect(messages, state, terms, is_patient=is_patient)
        self.silence.observe(number, silent=cohort.silent - {*cohort.resting}, heard=cohort.accepted)
        if reason := cohort.without(self.rounds.quorum, state.ledger):
            log.warning("previous model kept round=%d reason=%s", number, reason)
        return cohort

    def _closed(self, before: ServerState, cohort: Cohort, arrays: Arrays, seconds: float) -> ServerState:
        """The state after a round, once it was told and kept."""
        compares = math.isfinite(self.rounds.guard.norm_medians)
        state = advanced(before, cohort, arrays, keeps_norms=compares)
        stack = self.strategy.stack if isinstance(self.strategy, Receiving) else None
        report = report_of(before.arrays, state, cohort, seconds=seconds, stack=stack, watch=self.watch)
        if isinstance(self.strategy, Receiving):
            report = self.strategy.published(report)
            self.strategy.stack.close()  # updates need no memory while clients learn anew
        self._times.keep()
        if reason := self.convergence.observe(report):
            log.info("run converged round=%d reason=%s", state.version, reason)
        elif reason := exhausted(self.strategy):
            self.convergence.reason = reason
            log.info("run ends round=%d reason=%s", state.version, reason)
        state = replace(
            state,
            convergence=self.convergence.state_dict(),
            silence=self.silence.state_dict(),
            strategy=memory_of(self.strategy),
        )
        self.on_round(state, report)
        return state
