"""Draws in proportion to a power of each row's priority, and the weights that undo the bias.

Source: Schaul et al. 2016, arXiv:1511.05952, sections 3.3 and 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedmb.errors import SettingsError
from fedmb.replay.given_rows import LARGEST_PRIORITY
from fedmb.replay.sampler import Draw, Priorities, Slots, checked_capacity
from fedmb.replay.sum_tree import Kernels, SumTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

Beta: TypeAlias = float | Callable[[int], float]

LARGEST_ALPHA = 2.0
"""The paper uses 0.5 to 0.7; the largest priority allowed, to this power, can still be summed."""


@dataclass(frozen=True, slots=True)
class Annealed:
    """A beta that goes in a straight line from `start` to `end` while `rows` rows are drawn, and stays there.

    Raises:
        SettingsError: a number is out of its range.
    """

    start: float
    end: float = 1.0
    rows: int = 1_000_000

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0 <= value <= 1:
                raise SettingsError(f"beta must be 0 to 1, got {name}={value}", key=name)
        if self.rows < 1:
            raise SettingsError(
                f"rows must be 1 or more, got {self.rows}; for a constant beta pass a number", key="rows"
            )

    def __call__(self, drawn: int) -> float:
        """Beta after `drawn` rows."""
        return self.start + (self.end - self.start) * min(1.0, drawn / self.rows)


class Prioritized:
    """P(i) = p_i^alpha / sum_k p_k^alpha, with p_i = priority_i + epsilon.

    Importance weights are (N P(i))^-beta for N rows, as they stand: a row drawn as often as under uniform draws weighs
    1. So a weight depends on the row and the table, not on the rows it was drawn with; units then keep meaning rows
    when batches are split, joined, blended with fresh rows or summed over clients (gradient = sum(units x grad) /
    sum(units), where a factor common to all weights cancels anyway). `normalize="batch"` divides by the largest weight
    of the draw, as the paper does for loops that step on mean(weight x loss): weights then only scale steps down.

    A row stored without a priority gets the highest priority ever given (1 before there is one), so that every row is
    drawn soon once; or a fixed `initial`.

    Args:
        alpha: how much priorities count; 0 is uniform.
        beta: how much of the bias is undone, 0 to 1, or a function of the rows drawn so far (`Annealed`).
        epsilon: added to every priority, so that a row whose loss is zero is drawn again; with 0 it never is.
        initial: priority of a row stored without one.
        stratified: one row from each of `size` equal stretches of the sum (section 3.3), slots ascending; otherwise
            every row is drawn independently.
        normalize: "rows" or "batch", as above.
        kernels: "numba" compiles, "numpy" does not, "auto" compiles where numba is installed; same results.

    Raises:
        SettingsError: a setting is out of its range, or numba is asked for and not installed.
    """

    def __init__(
        self,
        alpha: float = 0.6,
        beta: Beta = 0.4,
        *,
        epsilon: float = 1e-6,
        initial: Literal["max"] | float = "max",
        stratified: bool = True,
        normalize: Literal["rows", "batch"] = "rows",
        kernels: Kernels = "auto",
    ) -> None:
        if not 0 <= alpha <= LARGEST_ALPHA:
            raise SettingsError(f"alpha must be 0 to {LARGEST_ALPHA:g}, got {alpha}", key="alpha")
        if not callable(beta) and not 0 <= beta <= 1:
            raise SettingsError(f"beta must be 0 to 1, got {beta}", key="beta")
        if not 0 <= epsilon <= LARGEST_PRIORITY:
            raise SettingsError(f"epsilon must be finite and 0 or more, got {epsilon}", key="epsilon")
        if isinstance(initial, str) and initial != "max":
            raise SettingsError(f"initial must be 'max' or a priority, got {initial!r}", key="initial")
        if not isinstance(initial, str) and not 0 <= initial <= LARGEST_PRIORITY:
            raise SettingsError(f"an initial priority must be finite and 0 or more, got {initial}", key="initial")
        if normalize not in {"rows", "batch"}:
            raise SettingsError(f"normalize must be rows or batch, got {normalize!r}", key="normalize")
        self._alpha = float(alpha)
        self._beta = beta
        self._epsilon = float(epsilon)
        self._initial = initial
        self._stratified = stratified
        self._normalize = normalize
        self._kernels = kernels
        self._highest = 0.0  # priority ever given; 0 means none yet
        self._drawn = 0
        self._capacity = 0
        self._tree: SumTree

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._tree = SumTree(capacity, kernels=self._kernels)

    @property
    def tree(self) -> SumTree:
        """P(i) before division: priorities with epsilon, to the power of alpha. Not to be written to."""
        return self._tree

    def store(self, slots: Slots, priorities: Priorities | None) -> None:
        """Take note that distinct slots were written, with these priorities or the initial one.

        Raises:
            ValueError: a priority is negative or not finite.
        """
        if priorities is not None:
            self.reprioritize(slots, priorities)
        elif len(slots):
            given = (self._highest or 1.0) if isinstance(self._initial, str) else self._initial
            self._tree.set(slots, np.full(len(slots), (given + self._epsilon) ** self._alpha))

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone: they are never drawn."""
        self._tree.set(slots, np.zeros(len(slots)))

    def draw(self, size: int, random: np.random.Generator) -> Draw:
        """Slots in proportion to their priorities to the power of alpha.

        Raises:
            NotEnoughData: no priority is above 0.
        """
        slots = self._tree.draw(size, random, stratified=self._stratified)
        self._drawn += size
        return Draw(slots, self._tree.leaves[slots] / self._tree.total())

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Set priorities of distinct slots that hold a row.

        Raises:
            ValueError: a priority is negative or not finite.
        """
        if not len(slots):
            return
        lowest, highest = float(priorities.min()), float(priorities.max())
        if not (lowest >= 0 and highest <= LARGEST_PRIORITY):  # also where one is nan
            raise ValueError(
                f"priorities must be 0 to {LARGEST_PRIORITY:g}, got {lowest} to {highest}; pass absolute values, and "
                "drop rows whose loss is not finite"
            )
        self._highest = max(self._highest, highest)
        self._tree.set(slots, (priorities + self._epsilon) ** self._alpha)

    def weights(self, draw: Draw, num_rows: int) -> NDArray[np.float32] | None:
        """(N P(i))^-beta, or the same divided by its largest; beta as of the last draw."""
        assert draw.probabilities is not None
        beta = self._beta(self._drawn) if callable(self._beta) else self._beta
        relative = draw.probabilities * num_rows
        if self._normalize == "batch":
            relative /= relative.min()
        return (relative**-beta).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Every leaf, the highest priority given and the rows drawn so far."""
        return {"leaves": self._tree.leaves.copy(), "highest": self._highest, "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of another capacity.
        """
        self._tree.load(state["leaves"])
        self._highest, self._drawn = float(state["highest"]), int(state["drawn"])
