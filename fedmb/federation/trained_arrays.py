"""Which arrays of the model a strategy steps: its parameters, and not the running statistics beside them.

A server with torch reads them off the task's model. One without is told by the clients, with the model that a run
begins with, and keeps them in its checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedmb.aggregation.fednova import FedNova
from fedmb.federation.strategy import MiniBatchFedAvg

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from flwr.serverapp.strategy import Strategy


@runtime_checkable
class Stepping(Protocol):
    """A part of a strategy that treats parameters otherwise than running statistics."""

    parameters: frozenset[str] | None
    """Their names; None before anybody said."""


def are_stepped(strategy: Strategy) -> bool:
    """Whether the strategy treats parameters otherwise than running statistics, and so must know them."""
    return isinstance(strategy, MiniBatchFedAvg) and any(True for _ in _steppers(strategy))


def known_to(strategy: Strategy) -> frozenset[str]:
    """The parameters that the strategy was told; empty where none were, and where it need not know them."""
    told = _steppers(strategy) if isinstance(strategy, MiniBatchFedAvg) else ()
    return frozenset().union(*(one.parameters or () for one in told))


def tell(strategy: Strategy, parameters: Collection[str]) -> None:
    """Let a strategy step these and no others."""
    assert isinstance(strategy, MiniBatchFedAvg), "no other is asked for them"
    names = frozenset(parameters)
    for one in _steppers(strategy):
        if isinstance(one, FedNova):
            strategy.rule = replace(one, parameters=names)
        else:
            one.parameters = names


def _steppers(strategy: MiniBatchFedAvg) -> Iterator[Stepping]:
    for one in (strategy.rule, strategy.optimizer, strategy.control):
        if isinstance(one, Stepping):
            yield one
