"""What a client does in a round: take the global model, run steps under a budget, hand back an update."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator

from fedmb.errors import NotEnoughData
from fedmb.ledger import Spans, joined
from fedmb.section import Section
from fedmb.seeding import torch_seed
from fedmb.training.parameters import arrays_of, check_finite, load_arrays
from fedmb.training.step import StepReport, TrainStep
from fedmb.training.tally import Tally
from fedmb.update import Arrays, Update, added

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.batch.minibatch import MiniBatch
    from fedmb.batch.source import BatchSource
    from fedmb.training.task import Task


class Training(Section):
    """How a client trains within a round. The round ends with the first budget that is used up."""

    batch_size: int = Field(default=32, ge=1)
    """Rows in a mini-batch."""
    micro_size: int | None = Field(default=None, ge=1)
    """Most rows in memory at once; leave it out for the whole batch. It never changes what is learnt."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """torch.optim optimiser, made afresh each round."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Step size of the optimiser."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimiser."""
    steps: float = Field(default=10, ge=1)
    """Budget in optimiser steps."""
    epochs: float = Field(default=math.inf, gt=0)
    """Budget in passes over a private table; a stream has no end and needs another budget."""
    samples: float = Field(default=math.inf, ge=1)
    """Budget in rows."""
    seconds: float = Field(default=math.inf, gt=0)
    """Budget in wall-clock seconds; the only one that two runs do not repeat bit for bit."""

    @model_validator(mode="after")
    def _some_budget(self) -> Training:
        if math.isinf(min(self.steps, self.epochs, self.samples, self.seconds)):
            raise ValueError("a round needs a finite budget, got none; set steps, epochs, samples or seconds")
        return self

    def build_optimizer(self, parameters: Any) -> torch.optim.Optimizer:  # torch's own ParamsT
        """The optimiser that these settings name, over `parameters`."""
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum, weight_decay=decay)


@dataclass(slots=True)
class _Learnt:
    """Running totals of one round."""

    steps: int = 0
    units: float = 0.0
    tally: Tally = field(default_factory=Tally)
    rows: dict[str, int] = field(default_factory=dict)
    spans: Spans = field(default_factory=dict)

    def count(self, batch: MiniBatch, report: StepReport) -> None:
        self.steps += 1
        self.units += report.units
        self.tally.add(report.seen)
        self.rows = added(self.rows, batch.origins)
        self.spans = joined(self.spans, batch.span)


class LocalUpdate:
    """One client's training. It keeps its model between rounds only to save building it.

    What is learnt in a round depends on the arrays, the position, the round's number and the seed, and on nothing that
    happened in this process before. So a client may be killed, restarted or moved between rounds.

    Args:
        task: what is learnt.
        source: where the client's mini-batches come from.
        training: sizes, optimiser and budget.
        client: name of the client; keys its random numbers and its position.
        seed: seed of the run.
        device: where the model is trained.
    """

    def __init__(
        self,
        task: Task,
        source: BatchSource,
        training: Training,
        *,
        client: str,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.task = task
        self.source = source
        self.training = training
        self.client = client
        self.seed = seed
        self.device = device or torch.device("cpu")
        with torch.random.fork_rng(devices=[]):  # the model's first numbers are overwritten each round
            self.model = task.build_model().to(self.device)
        samples = min(training.samples, training.epochs * source.examples_per_epoch)
        self._samples = samples if math.isinf(samples) else math.ceil(samples)
        if math.isinf(min(training.steps, self._samples, training.seconds)):
            raise ValueError(
                f"client {client!r} learns from an endless stream, where epochs = {training.epochs} never end a round; "
                "set training.steps, samples or seconds"
            )

    def run(self, arrays: Arrays, *, base_version: int, position: Mapping[str, Any]) -> Update:
        """Train from `arrays`, with rows from `position` on, until a budget is used up.

        A stream that stays silent ends the round early; with no row at all the update has weight 0.

        Raises:
            ShapeError: the arrays do not fit the task's model.
            Diverged: a parameter is no longer finite; nothing of this round may be used.
        """
        load_arrays(self.model, arrays)
        self.source.seek(dict(position))
        learnt = self._train(base_version)
        trained = arrays_of(self.model)
        check_finite(trained, client=self.client)
        return Update(
            arrays=trained,
            weight=learnt.units,
            base_version=base_version,
            positions={self.client: self.source.position()},
            spans=learnt.spans,
            sums={"units": learnt.units, "steps": float(learnt.steps), **learnt.tally.sums()},
            rows=learnt.rows,
        )

    def _train(self, base_version: int) -> _Learnt:
        step = TrainStep(
            self.task,
            self.model,
            self.training.build_optimizer(self.model.parameters()),
            micro_size=self.training.micro_size,
            device=self.device,
        )
        learnt = _Learnt()
        rows_left = self._samples
        deadline = time.monotonic() + self.training.seconds
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.seed, self.client, base_version, "train"))
            while learnt.steps < self.training.steps and rows_left > 0 and time.monotonic() < deadline:
                try:
                    batch = self.source.take(int(min(self.training.batch_size, rows_left)))
                except NotEnoughData:
                    break
                learnt.count(batch, step(batch))
                rows_left -= len(batch)
        return learnt
