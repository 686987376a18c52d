"""One model of what a round let in, by any Flower strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.aggregation.privacy_account import SPENT
from fedmb.arrays.flat import FlatArrays
from fedmb.errors import SettingsError
from fedmb.federation.averageable import averageable
from fedmb.federation.model_record import aggregated, arrays_from_record
from fedmb.federation.strategy import MiniBatchFedAvg, Receiving

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.cohort import Cohort
    from fedmb.update import Arrays


def is_private(strategy: Strategy) -> bool:
    """Whether a round in which nobody came must not be told from others."""
    return isinstance(strategy, MiniBatchFedAvg) and strategy.private is not None


def exhausted(strategy: Strategy) -> str:
    """Why the strategy may make no further round; empty while it may."""
    return strategy.exhausted() if isinstance(strategy, Receiving) else ""


def reason_before(strategy: Strategy, version: int, reason: str | None) -> str | None:
    """Why a run is over before its next round, given why it ended; one that spent its budget may have a larger one.

    Raises:
        SettingsError: the budget allows no first round.
    """
    now = exhausted(strategy)
    if now and version == 0:
        raise SettingsError(f"{now}; raise it, or the noise", key="aggregation.privacy.epsilon")
    return None if reason and reason.startswith(SPENT) and not now else reason


def combined(strategy: Strategy, state: ServerState, cohort: Cohort) -> Arrays:
    """The strategy's model of what was accepted; the previous one where it makes none, and then nothing counts."""
    learnt = [reply for reply in cohort.in_order() if reply.update.weight > 0]
    if not learnt and not is_private(strategy):
        return state.arrays
    before, takes_models = FlatArrays.packed(state.arrays), isinstance(strategy, Receiving)
    messages = [reply.message for reply in learnt] if takes_models else averageable(learnt)
    record, _ = strategy.aggregate_train(state.version + 1, messages)
    if record is not None and takes_models:
        after = FlatArrays.packed(arrays_from_record(record, before))
        before.layout.check(after.layout)
        return after
    if record is not None:
        # A counter is a fact of one client and no business of Flower's: the heaviest client's is kept.
        heaviest = max(learnt, key=lambda reply: reply.update.weight)
        return aggregated(before, record, FlatArrays.packed(heaviest.update.arrays))
    said = strategy.shortfall if isinstance(strategy, Receiving) else ""
    name = type(strategy).__name__
    cohort.give_back(state.ledger, said or f"{name} made no model of {len(learnt)} updates; see its log")
    return state.arrays
