"""Size, rate, schedule and clocks of a run, made from settings that agree with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.sizing.clocks import Follow
from fedmb.sizing.learning_rate import legw
from fedmb.sizing.learning_rate_section import SCALINGS

if TYPE_CHECKING:
    from fedmb.sizing.learning_rate_section import LearningRate
    from fedmb.sizing.policy import BatchSize, Figure
    from fedmb.sizing.schedule import Schedule
    from fedmb.sizing.sizing_section import Sizing
    from fedmb.sizing.stats import Stats


@dataclass(frozen=True, slots=True)
class Values:
    """What an optimiser works with, at the base size."""

    optimizer: str = "sgd"
    """Its name in the settings."""
    momentum: float = 0.0
    """Momentum of SGD and its kin."""
    betas: tuple[float, float] | None = None
    """Betas of Adam and its kin."""
    weight_decay: float = 0.0
    """Weight decay."""
    norm_momentum: float | None = None
    """Momentum of the model's batch norms; None where it has none."""
    ema_decay: float | None = None
    """What an average of weights keeps in a step; None where there is none."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """Everything of a step that depends on how far the run is and how large the batch."""

    size: BatchSize
    """Rows to ask for."""
    rate: float
    """Learning rate at the base size, before schedule and scaling."""
    schedule: Schedule
    """Factor of the rate by rows learnt."""
    follow: Follow
    """Values by the rows of the step."""

    @property
    def reads(self) -> frozenset[Figure]:
        """Figures that have to be measured."""
        return self.size.reads | self.follow.reads

    def values(self, samples: int, rows: int, stats: Stats) -> dict[str, float]:
        """Values for a step of `rows` after `samples` rows: `learning_rate`, and those of `Follow` that are followed.

        Absent names keep what the optimiser was made with.
        """
        found = self.follow.values(rows, stats)
        factor = found.pop("learning_rate_factor", 1.0)
        return {"learning_rate": self.rate * self.schedule(samples) * factor, **found}


def pacing(
    sizing: Sizing, learning_rate: LearningRate, values: Values | None = None, *, num_rows: float = math.inf
) -> Pacing:
    """Build what two sections describe.

    Args:
        sizing: section `[sizing]`.
        learning_rate: section `[learning_rate]`.
        values: the optimiser's; plain SGD when left out.
        num_rows: rows of one pass over the source; `math.inf` for a stream.

    Raises:
        SettingsError: the sections, or a section and the optimiser, contradict each other.
    """
    values = values or Values()
    check_agreement(sizing, learning_rate, values)
    decay, schedule = learning_rate.decay_schedule(), learning_rate.warmup_schedule()
    size = sizing.build(decay=decay, num_rows=num_rows)
    base_size = learning_rate.base_size or sizing.size
    if learning_rate.scaling == "legw":
        in_force = num_rows if sizing.kind == "full" else sizing.size
        schedule *= legw(int(in_force), base_size=base_size, warmup_samples=learning_rate.warmup_samples)
    if sizing.kind != "instead_of_decay":
        schedule *= decay
    followed = learning_rate.follow
    follow = Follow(
        base=base_size,
        learning_rate=SCALINGS.get(learning_rate.scaling),
        momentum=values.momentum if "momentum" in followed and values.betas is None else None,
        betas=values.betas if "momentum" in followed else None,
        weight_decay=values.weight_decay if "weight_decay" in followed else None,
        norm_momentum=values.norm_momentum if "norm_momentum" in followed else None,
        ema_decay=values.ema_decay if "average" in followed else None,
    )
    return Pacing(size, learning_rate.rate, schedule, follow)


def check_agreement(sizing: Sizing, learning_rate: LearningRate, values: Values) -> None:
    """Refuse techniques that undo each other.

    Raises:
        SettingsError: the first contradiction; its key is the setting to change.
    """
    kind, scaling = sizing.kind, learning_rate.scaling
    if kind == "cabs" and (values.optimizer != "sgd" or values.momentum > 0):
        raise SettingsError(
            f"cabs is derived for plain SGD, got {values.optimizer} with momentum {values.momentum}; take sgd without "
            "momentum, or norm_test",
            key="sizing.kind",
        )
    if kind in {"cabs", "instead_of_decay"} and scaling != "constant":
        raise SettingsError(
            f"{kind} sets the size from the rate, so the rate must not follow the size, got scaling {scaling}; "
            "take scaling constant",
            key="learning_rate.scaling",
        )
    if kind == "instead_of_decay" and learning_rate.decay == "none":
        raise SettingsError(
            "instead_of_decay turns a decay into sizes, got decay none; set learning_rate.decay",
            key="learning_rate.decay",
        )
    if scaling == "legw" and kind not in {"fixed", "full"}:
        raise SettingsError(
            f"legw stretches the warmup by one size for the whole run, got sizing.kind {kind}; take fixed, or scaling "
            "sqrt",
            key="learning_rate.scaling",
        )
    if scaling == "adam_gain" and values.optimizer in {"sgd", "lars"}:
        raise SettingsError(
            f"adam_gain is the gain of optimisers that divide by the gradient's size, got {values.optimizer}; take "
            "scaling gain",
            key="learning_rate.scaling",
        )
    _check_followed(learning_rate, values)


def _check_followed(learning_rate: LearningRate, values: Values) -> None:
    """Refuse to follow what is not there."""
    momentum = f"{values.optimizer} without betas and with momentum 0; set training.momentum"
    absent = {  # what there is in place of it, and the way out
        "momentum": momentum if values.betas is None and values.momentum == 0 else None,
        "weight_decay": "weight_decay 0; set training.weight_decay" if values.weight_decay == 0 else None,
        "norm_momentum": "a model without one that learns; add it" if values.norm_momentum is None else None,
        "average": "no average of weights; set training.average" if values.ema_decay is None else None,
    }
    for name in learning_rate.follow:
        if absent[name] is not None:
            raise SettingsError(
                f"follow needs the {name} that it names, got {absent[name]}, or leave {name} out of follow",
                key="learning_rate.follow",
            )
