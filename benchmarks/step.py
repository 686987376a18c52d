"""How much a step costs beside the mathematics: ours against a bare loop, Accelerate, Lightning and Keras.

All train the same multi-layer perceptron (32-128-10) with SGD on the same resident rows, in one process with one
thread, in turns; a figure is the ratio to the bare loop of the same turn, its median and spread over all turns. Where
there is a GPU the same is measured on it, copies included; each clock stops when the device has done its work.

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
from collections.abc import Callable, Iterator, Mapping
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
TARGETS = {"fedmb": {32: 1.05, 256: 1.02}}  # ratio to the bare loop
NOISE_TARGET, WAIT_TARGET = 0.5, 2.0  # per cent of a step
COLUMNS = {
    "x": np.random.default_rng(0).standard_normal((ROWS, 32)).astype(np.float32),
    "y": np.random.default_rng(1).integers(0, 10, ROWS),
}
Contender = Callable[[int, int], float]
"""Takes batch size and steps; answers seconds for all steps, without set-up."""
DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
device = DEVICES[0]


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


def measure(names: list[str], batch_size: int, turns: int, steps: int) -> dict[str, list[float]]:
    """Microseconds a step of each contender, one figure a turn; contenders take turns, so drift hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        CONTENDERS[name](batch_size, 20)
    for _ in range(turns):
        for name in names:
            figures[name].append(CONTENDERS[name](batch_size, steps) / steps * 1e6)
    return figures


def report(place: torch.device, size: int, figures: dict[str, list[float]], waits: list[float]) -> dict[str, object]:
    """Print a batch size's figures, and answer them."""
    print(f"\n{place.type}, batch size {size}: microseconds a step (median), ratio to the bare loop of the same turn")
    result: dict[str, object] = {}
    for name, values in figures.items():
        middle, low, high = spread(value / base for value, base in zip(values, figures["bare"], strict=True))
        line = f"  {name:<11} {statistics.median(values):8.1f}   {middle:5.3f}x   quartiles {low:.3f} to {high:.3f}"
        target = TARGETS.get(name, {}).get(size) if place.type == "cpu" else None
        print(line + (f"   target {target}" if target else ""))
        result[name] = {"us": statistics.median(values), "ratio": middle, "quartiles": [low, high]}
    if {"fedmb", "fedmb noise"} <= figures.keys():
        pairs_of_turns = zip(figures["fedmb noise"], figures["fedmb"], strict=True)
        middle, low, high = spread(100 * (one / other - 1) / NOISE_EVERY for one, other in pairs_of_turns)
        print(f"  noise measured every {NOISE_EVERY} steps: {middle:.2f} % ({low:.2f} to {high:.2f}) of a step", end="")
        print(f"   target {NOISE_TARGET} %")
        result["noise_per_cent"] = [middle, low, high]
    middle, low, high = spread(iter(waits))
    print(f"  waiting for rows: {middle:.1f} % ({low:.1f} to {high:.1f}) of the loop", end="")
    print(f"   target {WAIT_TARGET} %" if place.type == "cuda" else "")
    result["waiting_per_cent"] = [middle, low, high]
    return result


def spread(values: Iterator[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(list(values), [25, 50, 75]).tolist()
    return middle, low, high


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
    for place in DEVICES:
        globals()["device"] = place
        for size in chosen.sizes:
            figures = measure(names, size, chosen.turns, chosen.steps)
            waits = [waiting(size, chosen.steps) for _ in range(chosen.turns)]
            result[f"{place.type}/{size}"] = report(place, size, figures, waits)
    if len(DEVICES) == 1:
        print("\nno GPU here: the CUDA part is left out")
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
