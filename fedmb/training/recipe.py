"""The settings `[training]`: every technique of the mini-batch switched on by name, built and wired in one place.

Read without torch, as by a server that only averages, they are checked for all that torch need not be asked for; the
rest is checked by the clients, who refuse the round.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.pacing import Pacing, Values, pacing
from fedmb.sizing.sizing_section import Sizing
from fedmb.telemetry.energy import meter_for
from fedmb.training.choices import (
    Format,
    NormName,
    OptimizerName,
    Travels,
    check_overlap,
    torch_is_here,
)
from fedmb.training.drift import Drift, Scoring
from fedmb.training.guarding import Guarding
from fedmb.training.named_object import named_object
from fedmb.training.norm_choice import check_cuts, check_norm, norm_momentum, with_norm
from fedmb.training.optimizer_check import betas_of, check_optimizer
from fedmb.training.reach import check_reach_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from fedmb.batch.source import BatchSource
    from fedmb.telemetry.energy import Meter
    from fedmb.training.distributed import Ranks
    from fedmb.training.example_gradients import ExampleGradients
    from fedmb.training.microbatch import Split
    from fedmb.training.regularize import DropoutRule
    from fedmb.training.step import GradientEdit
    from fedmb.training.task import Task
    from fedmb.training.trainer import Trainer


class Training(Section):
    """How a client trains within a round. The round ends with the first budget that is used up."""

    steps: float = Field(default=10, ge=1)
    """Budget in optimiser steps."""
    epochs: float = Field(default=math.inf, gt=0)
    """Budget in passes over a private table; a stream has no end and needs another budget."""
    samples: float = Field(default=math.inf, ge=1)
    """Budget in rows."""
    seconds: float = Field(default=math.inf, gt=0)
    """Budget in wall-clock seconds; two runs do not repeat it bit for bit, nor one in joules."""
    joules: float = Field(default=math.inf, gt=0)
    """Budget in energy, measured by this machine or modelled by `watts`."""
    overlap_steps: int = Field(default=0, ge=0)
    """Steps of each round, of `steps`, that a resident trainer takes while messages travel; 0 for none."""
    sizing: Sizing = Sizing()
    learning_rate: LearningRate = LearningRate()
    optimizer: OptimizerName | Annotated[str, Field(pattern="^[^:]+:[^:]+$")] = "sgd"
    """Optimiser, made afresh each round, or a class of torch.optim's kind, as torch.optim:NAdam; lars and lamb leave
    biases and norm layers alone."""
    optimizer_options: dict[str, bool | int | float | str | tuple[float, ...]] = Field(default_factory=dict)
    """Further arguments of the optimiser, as { betas = [0.9, 0.95] } of adam or { eta = 0.002 } of lars."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd, lars, rmsprop and classes that have one."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimiser."""
    weight_decay_samples: float | None = Field(default=None, gt=0)
    """Rows over which a weight is forgotten, whatever batch and rate, in place of weight_decay; biases and norm layers
    are left alone."""
    dropout: str | None = None
    """Rule for the dropout layers, written module:function: (rows of a batch, probability as built) -> probability."""
    proximal: float = Field(default=0.0, ge=0)
    """Strength of FedProx's pull towards the round's global model; 0 for none."""
    control_variates: bool = False
    """SCAFFOLD: correct every gradient by where all clients' point (docs/guide/drift.md)."""
    micro_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Most rows in memory at once: a number, "auto" for what fits, or nothing for the whole batch. It never changes
    what is learnt; batch norm, which would, is refused beside it."""
    precision: Format = "fp32"
    """Number format of the forward pass; parameters stay fp32."""
    guard: Guarding = Guarding()
    norm: NormName = "as_built"
    """What the model's batch-norm layers become."""
    norm_group: int | None = Field(default=None, ge=1)
    """norm: rows in a ghost group, or channels groups of group norm."""
    norm_travels: Travels = "all"
    """What of the batch-norm layers is averaged: all, silobn (weights, not statistics) or fedbn (nothing)."""
    checkpointed: tuple[str, ...] = ()
    """Names of blocks that are computed again in the backward pass, to save memory."""
    average: float | None = Field(default=None, ge=0, le=1)
    """What a moving average of the weights keeps in a step; it is sent in place of the last weights. None for none."""
    noise_every: int = Field(default=0, ge=0)
    """Steps between two measurements of the gradient noise; 0 measures it only where a policy reads it."""
    watts: float | None = Field(default=None, gt=0)
    """Power to model energy with where this machine cannot measure it."""
    grams_per_kwh: float | None = Field(default=None, ge=0)
    """Carbon that a kilowatt-hour of your grid costs; with it carbon_grams is told beside the joules."""
    prequential: Scoring = Scoring()
    drift: Drift = Drift()

    @classmethod
    def plain(cls, *, batch_size: int = 32, learning_rate: float = 0.1, **others: Any) -> Training:  # fields
        """A fixed batch size and a constant rate, the most common recipe, without naming their sections.

        Raises:
            pydantic.ValidationError: a value breaks a rule; it is a ValueError.
        """
        return cls(sizing=Sizing(size=batch_size), learning_rate=LearningRate(rate=learning_rate), **others)

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if math.isinf(min(self.steps, self.epochs, self.samples, self.seconds, self.joules)):
            raise ValueError("a round needs a finite budget, got none; set steps, epochs, samples, seconds or joules")
        if self.weight_decay and self.weight_decay_samples:
            raise ValueError(
                f"weights decay by one clock, got weight_decay {self.weight_decay} and weight_decay_samples "
                f"{self.weight_decay_samples:g}; remove one"
            )
        check_overlap(self)
        if self.control_variates:
            check_reach_known(self, by="training.control_variates")
        check_norm(self.norm, self.norm_group, self.norm_travels, sizing=self.sizing, micro_size=self.micro_size)
        check_optimizer(
            self.optimizer, momentum=self.momentum, weight_decay=self.weight_decay, options=self.optimizer_options
        )
        if self.dropout is not None and torch_is_here():  # here, and not at round 40
            named_object(self.dropout, key="training.dropout", example="my_model:dropout_of")
        paced = self._pacing(1, norm_momentum=0.1)
        if self._measures(paced) and self.sizing.kind != "full" and paced.size.largest < 2 * self._multiple:
            raise ValueError(
                f"noise is told from two groups of a batch's rows, got batches of {paced.size.largest:g} and groups of "
                f"{self._multiple}; take larger batches, or set noise_every to 0 and what reads noise to something else"
            )
        return self

    def build_model(self, task: Task) -> nn.Module:
        """The task's model with its norm layers and blocks as these settings want them.

        Server and clients that share the settings build the same names and shapes.

        Raises:
            SettingsError: a block has no such name, or the model has no batch norm, which a setting is about.
        """
        from fedmb.training.recompute import checkpointed

        model = with_norm(task.build_model(), self.norm, self.norm_group, self.norm_travels)
        return checkpointed(model, self.checkpointed) if self.checkpointed else model

    def build_pacing(self, model: nn.Module, source: BatchSource) -> Pacing:
        """Sizes, rates and clocks for a fresh model of `build_model`.

        Raises:
            SettingsError: two techniques contradict each other, the model, the source or what this machine measures.
        """
        if self.sizing.kind == "full" and math.isinf(source.examples_per_epoch):
            raise SettingsError(
                "a full batch needs a table, got a stream, which has no end; take another kind", key="sizing.kind"
            )
        self.drift.check(source)
        paced = self._pacing(source.examples_per_epoch, norm_momentum=norm_momentum(model))
        self._check(model, paced)
        return paced

    def build_trainer(
        self,
        task: Task,
        model: nn.Module,
        source: BatchSource,
        paced: Pacing,
        device: torch.device,
        ranks: Ranks | None = None,
        client: str = "",
        edits: Sequence[GradientEdit] = (),
        private: ExampleGradients | None = None,
    ) -> Trainer:
        """A trainer of `model`, which lies on `device`, with a fresh optimiser, on one or several `ranks`.

        `client` is the name in its log lines; `edits` change its gradients before the proximal term does, and after
        `private`, made for this model, has made them so.

        Raises:
            SettingsError: the optimiser or the model lacks what the settings want to change.
        """
        from fedmb.training.fresh_watch import watch_for
        from fedmb.training.optimizer_choice import groups_for, optimizer_of
        from fedmb.training.precision import Precision
        from fedmb.training.regularize import Proximal, timescale_decay
        from fedmb.training.step import TrainStep
        from fedmb.training.trainer import Trainer
        from fedmb.training.weight_average import WeightAverage

        self._check(model, paced)
        optimizer = optimizer_of(
            self.optimizer,
            groups_for(self.optimizer, model, weight_decay=self.weight_decay),
            learning_rate=paced.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            options=self.optimizer_options,
        )
        step = TrainStep(
            task,
            model,
            optimizer,
            split=self._split(),
            precision=Precision(self.precision, device=device),
            private=private,
            edits=[*edits, *([Proximal(self.proximal, model.parameters())] if self.proximal else [])],
            guard=self.guard.build(),
            rollback=self.guard.build_rollback(model, optimizer),
            ranks=ranks,
            device=device,
        )
        return Trainer(
            step,
            source,
            size=paced.size,
            schedule=paced.schedule,
            follow=paced.follow,
            noise_every=self.noise_every,
            average=WeightAverage(model, self.average) if self.average is not None else None,
            decay=timescale_decay(model, samples=self.weight_decay_samples),
            dropout=self._dropout(model),
            watch=watch_for(
                source,
                self.prequential,
                self.drift,
                client=client,
                ranks=step.ranks,
                rows_multiple=self.sizing.multiple,
                multiple=self._multiple,
            ),
            meter=self._meter(paced),
        )

    def _check(self, model: nn.Module, paced: Pacing) -> None:
        """Refuse what the model, or this machine, does not bear."""
        by = f"training.micro_size {self.micro_size}" if self.micro_size is not None else None
        if by is None and self._measures(paced):
            by = f"learning_rate.scaling {self.learning_rate.scaling}"
            if "noise" in paced.size.reads:
                by = f"sizing.kind {self.sizing.kind}"
            if self.noise_every:
                by = f"training.noise_every {self.noise_every}"
            by += ", which measures noise on parts of a batch"
        check_cuts(model, multiple=self._multiple, cut_by=by)
        self._dropout(model)
        self._meter(paced)

    def _measures(self, paced: Pacing) -> bool:
        """Whether the gradient noise is measured."""
        return self.noise_every > 0 or "noise" in paced.reads

    def _meter(self, paced: Pacing) -> Meter | None:
        by = f"sizing.kind {self.sizing.kind}" if "joules" in paced.reads else f"a budget of {self.joules:g} J"
        return meter_for(by, watts=self.watts) if "joules" in paced.reads or math.isfinite(self.joules) else None

    def _dropout(self, model: nn.Module) -> DropoutRule | None:
        if self.dropout is None:
            return None
        from fedmb.training.regularize import DropoutRule

        return DropoutRule(model, named_object(self.dropout, key="training.dropout", example="my_model:dropout_of"))

    @property
    def _multiple(self) -> int:
        """Rows that every part of a batch holds a whole number of."""
        return self.norm_group if self.norm == "ghost" and self.norm_group else 1

    def _split(self) -> Split:
        from fedmb.training.microbatch import Split

        multiple = self._multiple
        if self.micro_size is None:
            return Split.whole(multiple=multiple)
        if self.micro_size == "auto":
            return Split.auto(multiple=multiple)
        return Split.fixed(self.micro_size, multiple=multiple)

    def _pacing(self, num_rows: float, *, norm_momentum: float | None) -> Pacing:
        values = Values(
            optimizer=self.optimizer,
            momentum=self.momentum,
            betas=betas_of(self.optimizer, self.optimizer_options),
            weight_decay=self.weight_decay,
            norm_momentum=norm_momentum,
            ema_decay=self.average,
        )
        return pacing(self.sizing, self.learning_rate, values, num_rows=num_rows)
