"""Who takes a step in benchmarks/step.py: a bare loop, ours, Accelerate, Lightning and Keras."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping

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
from fedmb.training.trainer import Trainer

ROWS = 20_000
COLUMNS = {
    "x": np.random.default_rng(0).standard_normal((ROWS, 32)).astype(np.float32),
    "y": np.random.default_rng(1).integers(0, 10, ROWS),
}
Contender = Callable[[int, int], float]
"""Takes batch size and steps; answers seconds for all steps, without set-up."""
DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
device = DEVICES[0]


def use(place: torch.device) -> None:
    """Let all contenders work on a device."""
    global device  # noqa: PLW0603  # contenders take a batch size and steps, and nothing else
    device = place


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
        yield on_device(columns["x"]), on_device(columns["y"])


def on_device(column: np.ndarray) -> Tensor:
    """As a bare loop does it where its author knows how."""
    tensor = torch.from_numpy(column)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def model_on_device() -> nn.Module:
    return Perceptron().build_model().to(device)


def bare(batch_size: int, steps: int) -> float:
    model = model_on_device()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    rows = pairs(batch_size)
    start = now()
    for _ in range(steps):
        x, y = next(rows)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.stack(losses).sum().item()
    return now() - start


def stepper() -> TrainStep:
    model = model_on_device()
    return TrainStep(Perceptron(), model, torch.optim.SGD(model.parameters(), lr=0.1), device=device)


def stepped(batch_size: int, steps: int, *, measure: bool) -> float:
    step, tally, rows = stepper(), Tally(), source()
    start = now()
    for _ in range(steps):
        tally.add(step(rows.take(batch_size), measure=measure).seen)
    tally.sums()
    return now() - start


def fedmb(batch_size: int, steps: int) -> float:
    return stepped(batch_size, steps, measure=False)


def fedmb_with_noise(batch_size: int, steps: int) -> float:
    return stepped(batch_size, steps, measure=True)


def trainer(batch_size: int, steps: int) -> float:
    """The whole loop: policy, clocks, budget and tallies."""
    loop = Trainer(stepper(), source(), size=batch_size)
    start = now()
    loop.run(Budget(steps=steps)).sums()
    return now() - start


def waiting(batch_size: int, steps: int) -> float:
    """Per cent of the loop's time that it waits for rows."""
    loop = Trainer(stepper(), source(), size=batch_size)
    loop.run(Budget(steps=20))
    start = now()
    learnt = loop.run(Budget(steps=steps))
    learnt.sums()
    return 100 * learnt.wait_seconds / (now() - start)


def accelerate(batch_size: int, steps: int) -> float:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
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
    return now() - start


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
            self.started = now()

        def on_train_end(self) -> None:
            self.seconds = now() - self.started

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            return pairs(batch_size)

    module = Module()
    trainer = framework.Trainer(
        max_steps=steps,
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
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
    start = now()
    for _ in range(steps):
        model.train_on_batch(*next(rows))
    return now() - start


CONTENDERS: dict[str, Contender] = {
    "bare": bare,
    "fedmb": fedmb,
    "fedmb loop": trainer,
    "fedmb noise": fedmb_with_noise,
    "accelerate": accelerate,
    "lightning": lightning,
    "keras": keras,
}
