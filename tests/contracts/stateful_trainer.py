"""A trainer with every technique that remembers, for the contract of states."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.sizing.adaptive import mccandlish
from fedmb.sizing.clocks import Follow
from fedmb.sizing.learning_rate import linear
from fedmb.sizing.schedule import cosine, warmup
from fedmb.training.guard import Clip, Finite, Spike
from fedmb.training.microbatch import Split
from fedmb.training.precision import Precision
from fedmb.training.regularize import Proximal
from fedmb.training.rollback import RollbackPoint
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer
from fedmb.training.weight_average import WeightAverage


class Curve:
    """A regression whose network has every kind of state: dropout, running statistics, a counter."""

    schema = {"x": Column("float32", (6,)), "y": Column("float32")}

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, model: nn.Module, rows: Any) -> torch.Tensor:
        return model(rows["x"])[:, 0]

    def loss(self, outputs: torch.Tensor, rows: Any) -> torch.Tensor:
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs: torch.Tensor, rows: Any) -> dict[str, torch.Tensor]:
        return {}


def fresh_trainer(precision: str = "fp32", *, spikes: bool = False) -> Trainer:
    """Every technique that remembers at once; with `spikes`, some rows are so large that the model is wound back."""
    torch.manual_seed(5)
    random = np.random.default_rng(0)
    columns = {name: random.standard_normal(shape).astype(np.float32) for name, shape in (("x", (70, 6)), ("y", 70))}
    if spikes:
        columns["y"][::5] *= 1000
    model = Curve().build_model()
    anchor = Proximal(0.1, model.parameters())
    with torch.no_grad():  # a model restored in mid-round is not where its round began
        model[0].weight.mul_(1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    step = TrainStep(
        Curve(),
        model,
        optimizer,
        precision=Precision(precision, growth_interval=3),
        split=Split.fixed(8),
        edits=[anchor],
        guard=Clip(5.0) & Finite() & Spike(1.2, 2, patience=2),
        rollback=RollbackPoint(model, optimizer, every=3),
    )
    ticks = itertools.count(0.0, 0.01)
    return Trainer(
        step,
        TableSource(columns, seed=3, client="a"),
        size=mccandlish(4).clip(3, 12),
        schedule=warmup(50, start=0.1) * cosine(400),
        follow=Follow(base=8, learning_rate=linear, momentum=0.9, ema_decay=0.9),
        noise_every=2,
        average=WeightAverage(model, 0.9),
        clock=lambda: next(ticks),
    )


def drive_trainer(trainer: Trainer, step: int) -> dict[str, float]:
    """Three steps, so that some drive asks the policy again; times of the clock aside, what they learnt."""
    sums = trainer.run(Budget(steps=3)).sums()
    return {name: value for name, value in sums.items() if "seconds" not in name}


def observe_trainer(trainer: Trainer) -> Any:
    rates = [group["lr"] for group in trainer.step.optimizer.param_groups]
    return trainer.step.model.state_dict(), trainer.average.weights(), trainer.progress, rates, torch.get_rng_state()
