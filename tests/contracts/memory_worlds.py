"""Every memory that a blend may draw from, for the contract in test_memories.py, and sources over them.

A world's rows are functions of their numbers and its losses of batch and row, so that whoever goes back to a moment
sees the same again, and nothing but the memory's own state can make a difference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.replay.blend import Blend
from fedmb.replay.kept_states import KeptStates
from fedmb.replay.long_memory import LongMemory
from fedmb.replay.loss_memory import LossMemory
from fedmb.replay.remembered import Remembered, RemembersLosses
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = {"row": Column("int64"), "label": Column("uint8"), "x": Column("float32", (3,))}
WINDOW = 50
KEY: dict[str, Any] = {"seed": 7, "client": "site"}


class World(NamedTuple):
    """One memory under the contract."""

    open: Callable[[Path], Remembered]
    """The memory in a folder, as a new process would open it."""
    likely: Callable[[int], NDArray[np.float64]]
    """How likely each of the first `n` rows is to be drawn when they have been shown; up to a factor."""


def newest(folder: Path) -> Remembered:
    return UniformReplay(Ring.mapped(folder / "newest", SCHEMA, capacity_for(WINDOW)), WINDOW, **KEY)


def reservoir(folder: Path) -> Remembered:
    return LongMemory.mapped(folder / "reservoir", SCHEMA, WINDOW, **KEY)


def balanced(folder: Path) -> Remembered:
    return LongMemory.mapped(folder / "balanced", SCHEMA, WINDOW, label="label", **KEY)


def by_loss(folder: Path) -> Remembered:
    ring = Ring.mapped(folder / "rows", SCHEMA, capacity_for(WINDOW))
    return LossMemory(ring, WINDOW, states=KeptStates(folder / "losses", keep=None), every=4, **KEY)


def of_window(appended: int) -> NDArray[np.float64]:
    return (np.arange(appended) >= appended - WINDOW).astype(np.float64)


def of_any_age(appended: int) -> NDArray[np.float64]:
    """Ages are averaged over clients by the test."""
    return np.ones(appended)


def of_any_class(appended: int) -> NDArray[np.float64]:
    labels = columns(0, appended)["label"]
    return 1 / np.bincount(labels)[labels]


def of_loss(appended: int) -> NDArray[np.float64]:
    return of_window(appended) * (loss(np.arange(appended)) + 1e-6) ** 0.6


WORLDS = {
    "newest": World(newest, of_window),
    "reservoir": World(reservoir, of_any_age),
    "balanced": World(balanced, of_any_class),
    "prioritized": World(by_loss, of_loss),
}


def columns(first: int, stop: int) -> dict[str, NDArray[Any]]:
    """A stream of skewed classes, of which one leaves for good."""
    numbers = np.arange(first, stop)
    labels = np.where(numbers < 120, np.minimum(numbers % 7, 4), 1 + np.minimum(numbers % 6, 3))
    x = np.sqrt(numbers[:, None] + np.arange(3)).astype(np.float32)
    return {"row": numbers, "label": labels.astype(np.uint8), "x": x}


def loss(rows: NDArray[np.int64], batch: int = 0) -> NDArray[np.float32]:
    return (((rows * 7 + batch * 3) % 11) / 3).astype(np.float32)


class Driver:
    """Draws from a memory and shows it rows, batch after batch, as a blend does; its position is JSON."""

    def __init__(self, memory: Remembered) -> None:
        self.memory = memory
        self.step = 0

    def batch(self) -> tuple[bytes, ...]:
        """One batch; what was drawn, to the bit."""
        memory, seen = self.memory, ()
        first, count = memory.appended, 3 + self.step * 5 % 8
        size = min(5, len(memory))
        if size:
            drawn = memory.sample(size, self.step)
            assert all(array.flags.owndata or array.base is not None for array in drawn.columns.values())
            seen = (*(drawn.columns[name].tobytes() for name in SCHEMA), drawn.effective_units().tobytes())
        numbers = memory.append(columns(first, first + count))
        assert numbers == range(first, first + count)
        if isinstance(memory, RemembersLosses):
            rows = np.concatenate([np.array(numbers), memory.drawn[:size]])
            memory.expect(rows)
            memory.hear(memory.batches - 1, loss(rows, memory.batches - 1))
        self.step += 1
        return seen

    def position(self) -> dict[str, Any]:
        losses = self.memory.kept_losses() if isinstance(self.memory, RemembersLosses) else ""
        return {"step": self.step, "appended": self.memory.appended, "losses": losses}

    def seek(self, position: dict[str, Any]) -> int:
        self.step = position["step"]
        missing = self.memory.rewind(position["appended"])
        if isinstance(self.memory, RemembersLosses):
            self.memory.restore_losses(position["losses"])
        return missing


class Numbers:
    """An endless source of the stream's rows."""

    schema, examples_per_epoch = SCHEMA, math.inf

    def __init__(self) -> None:
        self.next = 0

    def take(self, size: int) -> MiniBatch:
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}")
        first, self.next = self.next, self.next + size
        return MiniBatch(columns(first, self.next), origins={"stream": size})

    def position(self) -> dict[str, int]:
        return {"next": self.next}

    def seek(self, position: dict[str, int]) -> None:
        if position.keys() - {"next"}:
            raise ValueError("another position")
        self.next = position.get("next", 0)

    def close(self) -> None:
        pass


class TellsItself:
    """A blend that is told its losses at once, as functions of the rows; a `BatchSource`."""

    def __init__(self, blend: Blend) -> None:
        self._blend = blend
        self.schema, self.examples_per_epoch = blend.schema, blend.examples_per_epoch
        self.position, self.seek, self.close = blend.position, blend.seek, blend.close

    def take(self, size: int) -> MiniBatch:
        batch = self._blend.take(size)
        number = self._blend.batches - 1
        self._blend.hear(number, loss(batch.columns["row"], number))
        return batch


def blended(name: str) -> Callable[[Path], Callable[[], TellsItself]]:
    """Opens a source over the memory of this name, for the contract of sources."""
    return lambda folder: lambda: TellsItself(Blend(Numbers(), WORLDS[name].open(folder), 0.6))
