"""How much a step costs beside the mathematics: ours against a bare loop, Accelerate, Lightning and Keras.

All train the same multi-layer perceptron (32-128-10) with SGD on the same resident rows, in one process with one
thread, in turns; a figure is the ratio to the bare loop of the same turn, its median and spread over all turns.

    make bench-step          # installs the peers and runs this
    python benchmarks/step.py --turns 15 --steps 300 --json step.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
warnings.filterwarnings("ignore")

import numpy as np  # the backend must be chosen before Keras is imported
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.tally import Tally
from fedmb.training.trainer import NOISE_EVERY, Trainer

ROWS = 20_000
COLUMNS = {
    "x": np.random.default_rng(0).standard_normal((ROWS, 32)).astype(np.float32),
    "y": np.random.default_rng(1).integers(0, 10, ROWS),
}
Contender = Callable[[int, int], float]
"""Takes batch size and steps; answers seconds for all steps, without set-up."""


class Perceptron:
    """The task; it has no metrics, as the other contenders have none."""

    schema = {"x": Column("float32", (32,)), "y": Column("int64")}

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, model: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
        return model(rows["x"])

    def loss(self, outputs: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs, rows["y"], reduction="none")

    def metrics(self, outputs: Tensor, rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {}


def source() -> TableSource:
    """Every contender draws its rows from the same gather, so that the loader does not count."""
    return TableSource(COLUMNS, seed=0, client=0, tail="drop")


def pairs(batch_size: int):
    rows = source()
    while True:
        columns = rows.take(batch_size).columns
        yield torch.from_numpy(columns["x"]), torch.from_numpy(columns["y"])


def bare(batch_size: int, steps: int) -> float:
    model = Perceptron().build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    rows = pairs(batch_size)
    start = time.perf_counter()
    for _ in range(steps):
        x, y = next(rows)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.stack(losses).sum().item()
    return time.perf_counter() - start


def fedmb(batch_size: int, steps: int) -> float:
    task = Perceptron()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.1))
    tally = Tally()
    rows = source()
    start = time.perf_counter()
    for _ in range(steps):
        tally.add(step(rows.take(batch_size)).seen)
    tally.sums()
    return time.perf_counter() - start


def trained(batch_size: int, steps: int, noise_every: int) -> float:
    """The whole loop: policy, clocks, budget, tallies and, if asked, noise."""
    task = Perceptron()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer = Trainer(step, source(), size=batch_size, noise_every=noise_every)
    start = time.perf_counter()
    trainer.run(Budget(steps=steps)).sums()
    return time.perf_counter() - start


def trainer(batch_size: int, steps: int) -> float:
    return trained(batch_size, steps, 0)


def trainer_with_noise(batch_size: int, steps: int) -> float:
    return trained(batch_size, steps, NOISE_EVERY)


def accelerate(batch_size: int, steps: int) -> float:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Perceptron().build_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    losses = []
    rows = pairs(batch_size)
    start = time.perf_counter()
    for _ in range(steps):
        x, y = next(rows)
        with accelerator.accumulate(model):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
        losses.append(loss.detach())
    torch.stack(losses).sum().item()
    return time.perf_counter() - start


def lightning(batch_size: int, steps: int) -> float:
    import logging

    import lightning as framework

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(framework.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Perceptron().build_model()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            return functional.cross_entropy(self.model(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_train_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            return pairs(batch_size)

    module = Module()
    trainer = framework.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(Rows(), batch_size=None))
    return module.seconds


def keras(batch_size: int, steps: int) -> float:
    import keras as framework

    framework.utils.set_random_seed(0)
    model = framework.Sequential(
        [framework.Input((32,)), framework.layers.Dense(128, activation="relu"), framework.layers.Dense(10)]
    )
    loss = framework.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(framework.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
    rows = pairs(batch_size)
    model.train_on_batch(*next(rows))
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(*next(rows))
    return time.perf_counter() - start


CONTENDERS: dict[str, Contender] = {
    "bare": bare,
    "fedmb": fedmb,
    "fedmb loop": trainer,
    "fedmb noise": trainer_with_noise,
    "accelerate": accelerate,
    "lightning": lightning,
    "keras": keras,
}


def measure(names: list[str], batch_size: int, turns: int, steps: int) -> dict[str, list[float]]:
    """Microseconds a step of each contender, one figure a turn; contenders take turns, so drift hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        CONTENDERS[name](batch_size, 20)
    for _ in range(turns):
        for name in names:
            figures[name].append(CONTENDERS[name](batch_size, steps) / steps * 1e6)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = ["bare", *(name for name in chosen.only if name != "bare")]
    result = {}
    for size in chosen.sizes:
        figures = measure(names, size, chosen.turns, chosen.steps)
        print(f"\nbatch size {size}: microseconds a step (median), ratio to the bare loop of the same turn")
        for name, values in figures.items():
            ratios = sorted(value / base for value, base in zip(values, figures["bare"], strict=True))
            middle, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-len(ratios) // 4 - 1]
            print(f"  {name:<11} {statistics.median(values):8.1f}   {middle:5.3f}x   quartiles {low:.3f} to {high:.3f}")
            result[f"{name}/{size}"] = {"us": statistics.median(values), "ratio": middle, "quartiles": [low, high]}
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
