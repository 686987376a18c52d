"""The settings `[training]`: every technique of the mini-batch switched on by name, built and wired in one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.pacing import Pacing, Values, pacing
from fedmb.sizing.sizing_section import Sizing
from fedmb.telemetry.energy import available_meter
from fedmb.telemetry.prequential import Prequential
from fedmb.training.drift import Drift, DriftResponse, Scoring
from fedmb.training.fresh_watch import FreshWatch
from fedmb.training.guard import Clip, Finite, GradientGuard, Spike
from fedmb.training.microbatch import Split
from fedmb.training.norm import frozen_norm, ghost_norm, group_norm, layer_norm
from fedmb.training.optimizers import WITH_MOMENTUM, OptimizerName, optimizer_of, parameter_groups
from fedmb.training.precision import Format, Precision
from fedmb.training.recompute import checkpointed
from fedmb.training.regularize import Proximal
from fedmb.training.rollback import RollbackPoint
from fedmb.training.step import TrainStep
from fedmb.training.trainer import Trainer
from fedmb.training.travelling import Travels
from fedmb.training.weight_average import WeightAverage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedmb.batch.source import BatchSource
    from fedmb.training.distributed import Ranks
    from fedmb.training.task import Task


class Guarding(Section):
    """What may happen to a gradient before it is used."""

    clip_norm: float = Field(default=math.inf, gt=0)
    """Longest gradient; longer ones are shortened to it, once a batch."""
    skip_non_finite: bool = False
    """Leave out batches whose gradient is not finite, and count them."""
    spike_factor: float = Field(default=math.inf, gt=1)
    """Leave out gradients so many times longer than the median of the last ones; the third in a row goes back."""
    rollback_every: int = Field(default=100, ge=1)
    """spike_factor: good steps between two copies to go back to."""

    def build(self) -> GradientGuard | None:
        """The guard, or None where nothing is guarded."""
        parts: list[GradientGuard] = []
        if math.isfinite(self.clip_norm):
            parts.append(Clip(self.clip_norm))
        if self.skip_non_finite:
            parts.append(Finite())
        if math.isfinite(self.spike_factor):
            parts.append(Spike(self.spike_factor))
        if not parts:
            return None
        guard = parts[0]
        for part in parts[1:]:
            guard &= part
        return guard


class Training(Section):
    """How a client trains within a round. The round ends with the first budget that is used up."""

    steps: float = Field(default=10, ge=1)
    """Budget in optimiser steps."""
    epochs: float = Field(default=math.inf, gt=0)
    """Budget in passes over a private table; a stream has no end and needs another budget."""
    samples: float = Field(default=math.inf, ge=1)
    """Budget in rows."""
    seconds: float = Field(default=math.inf, gt=0)
    """Budget in wall-clock seconds; the only one that two runs do not repeat bit for bit."""
    sizing: Sizing = Sizing()
    learning_rate: LearningRate = LearningRate()
    optimizer: OptimizerName = "sgd"
    """Optimiser, made afresh each round; lars and lamb leave biases and norm layers alone."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd, lars and rmsprop."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimiser."""
    proximal: float = Field(default=0.0, ge=0)
    """Strength of FedProx's pull towards the round's global model; 0 for none."""
    micro_size: int | Literal["auto"] | None = None
    """Most rows in memory at once: a number, "auto" for what fits, or nothing for the whole batch. It never changes
    what is learnt."""
    precision: Format = "fp32"
    """Number format of the forward pass; parameters stay fp32."""
    guard: Guarding = Guarding()
    norm: Literal["as_built", "ghost", "group", "layer", "frozen"] = "as_built"
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
        if math.isinf(min(self.steps, self.epochs, self.samples, self.seconds)):
            raise ValueError("a round needs a finite budget, got none; set steps, epochs, samples or seconds")
        if self.momentum and self.optimizer not in WITH_MOMENTUM:
            raise ValueError(
                f"momentum goes with {', '.join(sorted(WITH_MOMENTUM))}, got {self.momentum} for {self.optimizer}; "
                "set it to 0"
            )
        if (self.norm in {"ghost", "group"}) != (self.norm_group is not None):
            raise ValueError(
                f"norm_group goes with norm ghost or group, got norm {self.norm} and norm_group {self.norm_group}; "
                "set both or neither"
            )
        group = self.norm_group or 1
        if self.norm == "ghost" and self.sizing.multiple % group:
            raise ValueError(
                f"batches must hold whole ghost groups of {group} rows, got sizing.multiple {self.sizing.multiple}; "
                f"set sizing.multiple to {group}"
            )
        if self.norm == "ghost" and isinstance(self.micro_size, int) and self.micro_size % group:
            raise ValueError(
                f"micro_size must hold whole ghost groups of {group} rows, got {self.micro_size}; choose a multiple"
            )
        self._pacing(1, norm_momentum=0.1)  # what contradicts is refused here and not at round 40
        return self

    def build_model(self, task: Task) -> nn.Module:
        """The task's model with its norm layers and blocks as these settings want them.

        Server and clients that share the settings build the same names and shapes.

        Raises:
            SettingsError: a block has no such name, or a layer cannot be replaced.
        """
        model = task.build_model()
        if self.norm == "ghost" and self.norm_group is not None:
            model = ghost_norm(model, self.norm_group)
        elif self.norm == "group" and self.norm_group is not None:
            model = group_norm(model, self.norm_group)
        elif self.norm == "layer":
            model = layer_norm(model)
        elif self.norm == "frozen":
            model = frozen_norm(model)
        return checkpointed(model, self.checkpointed) if self.checkpointed else model

    def build_pacing(self, model: nn.Module, source: BatchSource) -> Pacing:
        """Sizes, rates and clocks for a fresh model of `build_model`.

        Raises:
            SettingsError: two techniques contradict each other, or the model or source.
        """
        if self.sizing.kind == "full" and math.isinf(source.examples_per_epoch):
            raise SettingsError(
                "a full batch needs a table, got a stream, which has no end; take another kind", key="sizing.kind"
            )
        self.drift.check(source)
        return self._pacing(source.examples_per_epoch, norm_momentum=_norm_momentum(model))

    def build_trainer(
        self,
        task: Task,
        model: nn.Module,
        source: BatchSource,
        paced: Pacing,
        device: torch.device,
        ranks: Ranks | None = None,
        client: str = "",
    ) -> Trainer:
        """A trainer of `model`, which lies on `device`, with a fresh optimiser, on one or several `ranks`.

        `client` is the name in its log lines.

        Raises:
            SettingsError: the optimiser or the model lacks what the settings want to change.
        """
        adapted = self.optimizer in {"lars", "lamb"}
        optimizer = optimizer_of(
            self.optimizer,
            parameter_groups(model, weight_decay=self.weight_decay) if adapted else list(model.parameters()),
            learning_rate=paced.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        guard = self.guard.build()
        spikes = math.isfinite(self.guard.spike_factor)
        step = TrainStep(
            task,
            model,
            optimizer,
            split=self._split(),
            precision=Precision(self.precision, device=device),
            edits=[Proximal(self.proximal, model.parameters())] if self.proximal else [],
            guard=guard,
            rollback=RollbackPoint(model, optimizer, every=self.guard.rollback_every) if spikes else None,
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
            watch=self._watch(source, step.ranks, client),
            meter=available_meter(self.watts) if "joules" in paced.reads else None,
        )

    def _watch(self, source: BatchSource, ranks: Ranks, client: str) -> FreshWatch | None:
        """Scores and alarms of a stream; None for a table, which has no fresh rows, and where all is off."""
        scored, detector = self.prequential.window, self.drift.build()
        is_endless = ranks.told(math.isinf(source.examples_per_epoch))  # rank 0's source is the client's
        if not is_endless or (not scored and detector is None):
            return None
        return FreshWatch(
            source,
            prequential=Prequential(window=scored, fading=self.prequential.fading) if scored else None,
            detector=detector,
            response=DriftResponse(self.drift, multiple=self.sizing.multiple) if detector is not None else None,
            every=self.prequential.every,
            client=client,
            ranks=ranks,
            multiple=self._split().multiple,
        )

    def _split(self) -> Split:
        multiple = self.norm_group if self.norm == "ghost" and self.norm_group else 1
        if self.micro_size is None:
            return Split.whole()
        if self.micro_size == "auto":
            return Split.auto(multiple=multiple)
        return Split.fixed(self.micro_size, multiple=multiple)

    def _pacing(self, num_rows: float, *, norm_momentum: float | None) -> Pacing:
        values = Values(
            optimizer=self.optimizer,
            momentum=self.momentum,
            betas=(0.9, 0.999) if self.optimizer in {"adam", "adamw"} else None,
            weight_decay=self.weight_decay,
            norm_momentum=norm_momentum,
        )
        return pacing(self.sizing, self.learning_rate, values, num_rows=num_rows)


def _norm_momentum(model: nn.Module) -> float | None:
    """Momentum of the model's batch norms; None where it has none."""
    for layer in model.modules():
        momentum = getattr(layer, "momentum", None)
        if isinstance(momentum, float):
            return momentum
    return None
