"""How far a round's steps went: where a gradient of 1 that never changes would have moved a parameter.

For plain SGD that is the sum of its learning rates. With momentum and a proximal pull it is what FedNova calls a
learning rate times |a|_1, the weights that the round's gradients have in what the model became. SGD is linear, so one
number, stepped beside the model, tells it for any schedule; other optimisers have no such number.

Source: Wang et al. 2020, arXiv:2007.07481, section 4 and appendix B.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fedmb.training.guarding import Guarding


REACH = "reach"
"""Its name among the sums of an update."""


class Reach:
    """One parameter whose gradient is always 1."""

    def __init__(self) -> None:
        self.moved = 0.0
        """How far it is from where the round began."""
        self._speed: float | None = None

    def step(self, rate: float, *, momentum: float = 0.0, pull: float = 0.0) -> None:
        """Take a step of SGD.

        Args:
            rate: learning rate in force.
            momentum: the same.
            pull: strength of the proximal term.
        """
        gradient = 1.0 - pull * self.moved
        self._speed = gradient if self._speed is None else momentum * self._speed + gradient
        self.moved += rate * self._speed


class Reaching(Protocol):
    """What of `[training]` a reach depends on; its fields say what each means."""

    @property
    def optimizer(self) -> str:
        """Its name."""
        ...

    @property
    def optimizer_options(self) -> Mapping[str, Any]:
        """Further arguments of it."""
        ...

    average: float | None
    guard: Guarding


def check_reach_known(training: Reaching, *, by: str) -> None:
    """Refuse local training whose reach no number tells.

    Args:
        training: how clients train.
        by: the setting that reads the reach, for the error.

    Raises:
        ValueError: steps are not plain SGD's, or what is sent is not where they ended.
    """
    reasons = {
        f"optimizer {training.optimizer}": training.optimizer != "sgd",
        f"optimizer_options {dict(training.optimizer_options)}": bool(training.optimizer_options),
        f"average {training.average}": training.average is not None,
        f"guard.spike_factor {training.guard.spike_factor:g}": math.isfinite(training.guard.spike_factor),
    }
    if found := [name for name, is_set in reasons.items() if is_set]:
        raise ValueError(
            f"{by} must know how far a client's steps went, which is told of plain SGD, got {', '.join(found)}; take "
            "optimizer sgd and leave out the rest"
        )
