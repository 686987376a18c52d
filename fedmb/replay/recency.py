"""Draws that prefer new rows: a row is half as likely as one stored `half_life` rows later."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.sampler import Draw, Priorities, Slots, checked_capacity
from fedmb.replay.slot_order import slot_numbers
from fedmb.replay.sum_tree import Kernels, SumTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DOUBLINGS = 500.0  # of a leaf over its value at the base; twice that is still far from the limits of a float64


class Recency:
    """P(i) is proportional to 2^(-age_i / half_life); a row's age is the number of rows stored after it.

    Rows are numbered as they are stored. While rows go in the order in which they came, as under `Fifo`, the numbers
    of those that are kept have no gap, the sum over them is a geometric series, and a draw inverts it: exact to
    rounding, no tree, nothing to update. With the first gap a sum tree takes over, for good, with the same
    probabilities: a row's share grows against none that is there, so a leaf is written once.

    Draws are independent. There are no importance weights: whoever prefers new rows wants that bias.

    Args:
        half_life: rows, above 0.
        kernels: of the tree; "numba" compiles, "numpy" does not, "auto" compiles where numba is installed.

    Raises:
        SettingsError: the half-life is not positive and finite.
    """

    def __init__(self, half_life: float, *, kernels: Kernels = "auto") -> None:
        if not 0 < half_life < math.inf:
            raise SettingsError(
                f"half_life must be rows, above 0 and finite, got {half_life}; for equal chances use Uniform()",
                key="half_life",
            )
        self._half_life = float(half_life)
        self._kernels = kernels
        self._capacity = 0
        self._stop = 0  # number of the next row
        self._start = 0  # number of the oldest row kept, while there is no gap
        self._numbers: NDArray[np.int64]  # row in each slot; -1 where there is none
        self._slots: NDArray[Any]  # slot of each row, at its number modulo capacity, while there is no gap
        self._tree: SumTree | None = None
        self._base = 0  # number of the row whose leaf is 1

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._numbers = np.full(capacity, -1)
        self._slots = np.zeros(capacity, slot_numbers(capacity))

    def store(self, slots: Slots, priorities: Priorities | None) -> None:
        """Take note that distinct slots were written, oldest first; priorities are not looked at."""
        numbers = np.arange(self._stop, self._stop + len(slots))
        if self._tree is None:
            replaced = self._numbers[slots]
            self._forget(replaced[replaced >= 0])
        self._numbers[slots] = numbers
        self._stop += len(slots)
        if self._tree is None:
            self._slots[numbers % self._capacity] = slots
        elif (self._stop - self._base) / self._half_life > MAX_DOUBLINGS:
            self._plant(self._tree)
        else:
            self._tree.set(slots, np.exp2((numbers - self._base) / self._half_life))

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        if self._tree is None:
            self._forget(np.sort(self._numbers[slots]))
        self._numbers[slots] = -1
        if self._tree is not None:
            self._tree.set(slots, np.zeros(len(slots)))

    def _forget(self, numbers: NDArray[np.int64]) -> None:
        """The rows of these numbers go; where they are not the oldest ones, a tree takes over."""
        if np.array_equal(numbers, np.arange(self._start, self._start + len(numbers))):
            self._start += len(numbers)
        else:
            self._tree = SumTree(self._capacity, kernels=self._kernels)
            self._plant(self._tree)

    def _plant(self, tree: SumTree) -> None:
        """Set every leaf anew, with the newest row as base."""
        self._base = int(self._numbers.max())
        leaves = np.exp2((self._numbers - self._base) / self._half_life)
        tree.load(np.where((self._numbers >= 0) & (leaves >= np.finfo(np.float64).tiny), leaves, 0.0))

    def draw(self, size: int, random: np.random.Generator) -> Draw:
        """Slots with a row, the newest preferred, each draw independent of the others.

        Raises:
            NotEnoughData: no slot holds a row.
        """
        count = self._stop - self._start
        if self._tree is None and count:
            # The chance of an age below a is (1 - q^a) / (1 - q^count), with q = 2^(-1 / half_life).
            rate = math.log(2) / self._half_life
            shrink = math.expm1(-count * rate)
            ages = np.floor(np.log1p(random.random(size) * shrink) / -rate)
            np.minimum(ages, count - 1, out=ages)
            chances = np.exp(-rate * ages) * (math.expm1(-rate) / shrink)
            numbers = self._stop - 1 - ages.astype(np.int64)
            return Draw(self._slots[numbers % self._capacity].astype(np.int64), chances)
        if self._tree is not None:
            if self._tree.total() < 1 and self._numbers.max() >= 0:  # the newest rows are gone
                self._plant(self._tree)
            if self._tree.total() > 0:
                slots = self._tree.draw(size, random, stratified=False)
                return Draw(slots, self._tree.leaves[slots] / self._tree.total())
        raise NotEnoughData(f"a draw of {size} rows needs a row to draw, got none; append some first")

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: age decides."""

    def weights(self, draw: Draw, num_rows: int) -> NDArray[np.float32] | None:
        """None: the preference is wanted."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Number of the row in each slot, of the oldest and of the next row; of a tree, its leaves and their base."""
        leaves = None if self._tree is None else self._tree.leaves.copy()
        numbers = self._numbers.copy()
        return {"numbers": numbers, "start": self._start, "stop": self._stop, "base": self._base, "leaves": leaves}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of another capacity.
        """
        numbers = state["numbers"]
        if numbers.shape != self._numbers.shape:
            raise ShapeError(f"a state of {len(numbers)} slots does not fit {self._capacity}; use the same capacity")
        self._numbers = numbers.copy()
        self._start, self._stop, self._base = int(state["start"]), int(state["stop"]), int(state["base"])
        self._tree = None
        if state["leaves"] is None:
            held = np.flatnonzero(numbers >= 0)
            self._slots[numbers[held] % self._capacity] = held
        else:
            self._tree = SumTree(self._capacity, kernels=self._kernels)
            self._tree.load(state["leaves"])
