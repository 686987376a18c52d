"""Words that `[training]` chooses among, and rules between its settings: known without torch too."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from fedmb.training.guarding import Guarding

OptimizerName: TypeAlias = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "lars", "lamb"]
Format: TypeAlias = Literal["fp32", "bf16", "fp16"]
NormName: TypeAlias = Literal["as_built", "ghost", "group", "layer", "frozen"]
Travels: TypeAlias = Literal["all", "fedbn", "silobn"]
"""all: everything; fedbn: all but batch norm layers; silobn: all but the running statistics of batch norm layers."""


def torch_is_here() -> bool:
    """Whether this Python could import torch; a server and a daemon do without. It is not imported for the answer."""
    return find_spec("torch") is not None


WITH_MOMENTUM = frozenset({"sgd", "rmsprop", "lars"})
"""Optimisers by a word that take a momentum."""
BETAS = dict.fromkeys(("adam", "adamw", "lamb"), (0.9, 0.999))
"""Both betas of those that have them, where no option says otherwise."""


def check_momentum(name: str, momentum: float, *, has_momentum: bool) -> None:
    """Refuse a momentum that an optimiser does not have.

    Raises:
        SettingsError: it has none.
    """
    if momentum and not has_momentum:
        raise SettingsError(
            f"{name} has no momentum of this kind, got {momentum}; set it to 0 or take lars, rmsprop or sgd",
            key="training.momentum",
        )


class Overlapping(Protocol):
    """What of `[training]` steps ahead depend on; its fields say what each means."""

    overlap_steps: int
    steps: float
    proximal: float
    average: float | None
    joules: float
    guard: Guarding
    control_variates: bool


def check_overlap(training: Overlapping) -> None:
    """Refuse steps ahead that the other settings do not bear.

    Raises:
        ValueError: the round has fewer steps or no number of them, or something else holds a copy of the parameters.
    """
    if not training.overlap_steps:
        return
    if not training.overlap_steps <= training.steps < math.inf:
        raise ValueError(
            f"steps ahead are steps of the round, got overlap_steps {training.overlap_steps} and steps "
            f"{training.steps:g}; set steps to a number that is no smaller"
        )
    holders = {
        "proximal": training.proximal > 0,
        "average": training.average is not None,
        "guard.spike_factor": math.isfinite(training.guard.spike_factor),
        "joules": math.isfinite(training.joules),
        "control_variates": training.control_variates,
    }
    if found := [name for name, is_set in holders.items() if is_set]:
        raise ValueError(
            f"steps ahead move the parameters alone when the global model comes, got overlap_steps "
            f"{training.overlap_steps} beside {', '.join(found)}, which need the round's model from the first step on; "
            "set overlap_steps to 0 or leave them out"
        )
