"""A stretch of training: how much is asked for, and what it saw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fedmb.errors import SettingsError
from fedmb.ledger import joined
from fedmb.telemetry.delayed_score import TRAINED
from fedmb.training.guard import Verdict
from fedmb.training.reach import REACH, Reach
from fedmb.training.tally import Tally

if TYPE_CHECKING:
    from fedmb.batch.minibatch import MiniBatch
    from fedmb.ledger import Spans
    from fedmb.training.step import StepReport


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to train; the first limit that is reached ends it.

    Raises:
        SettingsError: no limit is finite, or one is not positive.
    """

    steps: float = math.inf
    samples: float = math.inf
    seconds: float = math.inf
    joules: float = math.inf
    """Energy by the trainer's meter; the step in which it is used up is taken to its end."""

    def __post_init__(self) -> None:
        limits = (self.steps, self.samples, self.seconds, self.joules)
        if math.isinf(min(limits)) or not min(limits) > 0:
            raise SettingsError(
                f"a budget needs a limit above 0 that is finite, got {self.steps} steps, {self.samples} samples, "
                f"{self.seconds} seconds and {self.joules} joules; set one"
            )


@dataclass(slots=True)
class Learnt:
    """What a stretch of training saw."""

    steps: int = 0
    """Batches taken, skipped ones included."""
    skipped: int = 0
    """Batches whose gradients were thrown away."""
    rollbacks: int = 0
    """Skipped batches that also wound the model back."""
    units: float = 0.0
    """Units that were learnt; skipped batches have none."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows taken, by origin."""
    spans: Spans = field(default_factory=dict)
    """Stretches of stream partitions that were taken."""
    rate: float = 0.0
    """Sum of the learning rates of the steps that were taken: how far the model may have moved."""
    reach: Reach = field(default_factory=Reach)
    """How far those steps went."""
    seconds: float = 0.0
    """Wall-clock time of the stretch."""
    wait_seconds: float = 0.0
    """The part of it spent waiting for rows."""
    tally: Tally = field(default_factory=Tally)
    gradient_norms: list[torch.Tensor] = field(default_factory=list)
    """Total norm of each batch, with a guard."""

    def count(self, batch: MiniBatch, report: StepReport) -> None:
        """Add one step."""
        self.steps += 1
        self.skipped += report.verdict is not Verdict.OK
        self.rollbacks += report.verdict is Verdict.ROLLBACK
        self.units += report.units
        self.tally.add(report.seen)
        for origin, count in batch.origins.items():
            self.rows[origin] = self.rows.get(origin, 0) + count
        if batch.span:
            self.spans = joined(self.spans, batch.span)
        if report.norm is not None:
            self.gradient_norms.append(report.norm)

    def sums(self) -> dict[str, float]:
        """Everything that can be added up over clients; this waits for the device once."""
        told = {name if name == "loss" else TRAINED + name: value for name, value in self.tally.sums().items()}
        figures = {"units": self.units, "steps": float(self.steps), **told}
        figures |= {"skipped": float(self.skipped), "rate": self.rate, REACH: self.reach.moved}
        figures |= {"seconds": self.seconds, "wait_seconds": self.wait_seconds}
        if self.gradient_norms:
            norms = torch.stack(self.gradient_norms).double()
            figures["gradient_norm"] = float(norms[norms.isfinite()].sum())
        return figures
