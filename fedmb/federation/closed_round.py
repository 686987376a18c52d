"""What a closed round leaves: the next state, and the report of what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from fedmb.aggregation.stack import Stack
from fedmb.federation.round_figures import alarms_of, monitored, summed
from fedmb.telemetry.events import RoundReport
from fedmb.update import added

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.cohort import Cohort
    from fedmb.update import Arrays

_USUAL_ROUNDS = 8  # whose changes say what is usual: changes shrink as a model learns, within tens of rounds


@dataclass(frozen=True, slots=True)
class Watch:
    """What a server can see beside the replies; each part may be absent."""

    score: Callable[[ServerState], Mapping[str, float]] | None = None
    """Figures of a model on held-out rows."""
    lag: Callable[[ServerState], int] | None = None
    """Records that streams hold beyond a model's ledger."""
    set_aside: Callable[[], int] | None = None
    """Records that could not be decoded so far."""


def advanced(state: ServerState, cohort: Cohort, arrays: Arrays, *, keeps_norms: bool) -> ServerState:
    """The state after a round.

    Args:
        state: the one that the round opened on.
        cohort: what was let in.
        arrays: the model made of it.
        keeps_norms: whether later changes are compared with the lengths of these.
    """
    positions, rows = dict(state.positions), dict(state.learnt)
    for client, reply in sorted(cohort.accepted.items()):
        positions |= reply.update.positions
        rows[client] = added(rows.get(client, {}), reply.update.rows)
    norms = [reply.norm for reply in cohort.accepted.values() if reply.update.weight > 0]
    return replace(
        state,
        version=state.version + 1,
        arrays=arrays,
        ledger=cohort.ledger,
        positions=positions,
        norms=(*state.norms, median(norms))[-_USUAL_ROUNDS:] if norms and keeps_norms else state.norms,
        learnt=dict(sorted(rows.items())),
    )


def report_of(
    before: Arrays, state: ServerState, cohort: Cohort, *, seconds: float, stack: Stack | None, watch: Watch
) -> RoundReport:
    """What sinks are told of a round.

    Args:
        before: the model that the round started from.
        state: after the round.
        cohort: what came back.
        seconds: how long the round took.
        stack: the accepted models, where the strategy received them; None where the updates hold them.
        watch: what the server can see beside the replies.
    """
    updates = [reply.update for reply in cohort.in_order()]
    if stack is None:
        stack = Stack(memory_bytes=math.inf)
        for update in updates:
            if update.weight > 0:
                stack.put(", ".join(update.clients), update.arrays, update.weight)
    rows, sums = summed(updates)
    units = sums.get("units", 0.0)
    return RoundReport(
        round=state.version,
        seconds=seconds,
        train_loss=sums.get("loss", math.nan) / units if units else math.nan,
        scores=dict(watch.score(state)) if watch.score else {},
        rows=rows,
        lag=watch.lag(state) if watch.lag else None,
        clients=len(cohort.accepted),
        accepted=tuple(sorted(cohort.accepted)),
        late=dict(sorted(cohort.late.items())),
        rejected=cohort.rejected,
        skipped=cohort.skipped,
        closed_by=cohort.closed_by,
        bytes_down=cohort.bytes_down,
        bytes_up=cohort.bytes_up,
        set_aside=watch.set_aside() if watch.set_aside else 0,
        monitor=monitored(updates, before, state.arrays, stack, late=cohort.late),
        alarms=alarms_of(updates),
    )
