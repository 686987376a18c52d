"""Prioritised draws on a device: the same chances and weights as `fedmb.replay.prioritized`, nothing on the host.

A priority that comes as a tensor is never looked at by the host. What is negative or not finite among them therefore
raises nothing; it is ignored, and counted on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.given_rows import LARGEST_PRIORITY
from fedmb.replay.prioritized import Prioritized
from fedmb.training.device_ids import stretches
from fedmb.training.device_sums import DeviceSums

if TYPE_CHECKING:
    from torch import Tensor

    from fedmb.replay.prioritized import Beta

SMALLEST_EPSILON = 1e-100  # to the power of the largest alpha it is still a normal number


class DeviceDraw(NamedTuple):
    """Slots drawn, and how likely each was."""

    slots: Tensor
    """int64 `(size,)`."""
    probabilities: Tensor
    """float64 `(size,)`, of one draw."""


class DevicePrioritized:
    """P(i) = p_i^alpha / sum_k p_k^alpha, with p_i = priority_i + epsilon, and weights (N P(i))^-beta.

    Args:
        alpha: how much priorities count; 0 is uniform.
        beta: how much of the bias is undone, 0 to 1, or a function of the rows drawn so far (`Annealed`).
        epsilon: added to every priority, above 0: so that a draw need not ask the device whether there is a row.
        initial: priority of a row stored without one: the highest ever given, 1 before there is one; or a number.
        stratified: one row from each of `size` equal stretches of the sum; otherwise rows are independent.
        normalize: "rows" leaves weights as they are, "batch" divides them by the largest of the draw.

    Raises:
        SettingsError: a setting is out of its range.
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
    ) -> None:
        Prioritized(alpha, beta, epsilon=epsilon, initial=initial, normalize=normalize)  # refuses what it refuses there
        if epsilon < SMALLEST_EPSILON:
            raise SettingsError(
                f"epsilon must be {SMALLEST_EPSILON:g} or more on a device, got {epsilon}; a row of priority 0 could "
                "never be drawn, and nobody would see that none is left"
            )
        self._alpha = float(alpha)
        self._beta = beta
        self._epsilon = float(epsilon)
        self._initial = initial
        self._stratified = stratified
        self._normalize = normalize
        self._drawn = 0
        self._sums: DeviceSums
        self._highest: Tensor

    def bind(self, capacity: int, device: torch.device) -> None:
        """Serve slots 0 to `capacity` - 1; called once, by the ring.

        Raises:
            SettingsError: it serves a ring already.
        """
        if hasattr(self, "_sums"):
            raise SettingsError("a sampler serves one ring, this one does already; make another")
        self._capacity = capacity
        self._sums = DeviceSums(capacity, device)
        self._highest = torch.zeros((), dtype=torch.float64, device=device)
        self._places = torch.empty(0, dtype=torch.float64, device=device)

    @property
    def leaves(self) -> Tensor:
        """Priorities with epsilon, to the power of alpha, float64 `(capacity,)`. Not to be written to."""
        return self._sums.leaves

    def store(self, number: int, count: int, priorities: Tensor | None) -> None:
        """Take note that rows were written from row `number` on, with these priorities or the initial one."""
        new = self._new()
        for start, first, stop in stretches(number, count, self._capacity):
            if priorities is None:
                self._sums.fill(start, start + stop - first, self._leaf(new))
            else:
                given = priorities[first:stop]
                self._sums.fill(start, start + stop - first, self._leaf(torch.where(is_priority(given), given, new)))
        if priorities is not None:
            self._raise_highest(priorities, is_priority(priorities))

    def draw(self, size: int, random: torch.Generator) -> DeviceDraw:
        """Slots in proportion to their priorities to the power of alpha; there is at least one row."""
        total = self._sums.total()
        chances = torch.rand(size, dtype=torch.float64, device=total.device, generator=random)
        if self._stratified:
            if len(self._places) != size:
                self._places = torch.arange(size, dtype=torch.float64, device=total.device)
            chances.add_(self._places).mul_(total / size)
        else:
            chances.mul_(total)
        slots = self._sums.draw(chances)
        self._drawn += size
        return DeviceDraw(slots, self._sums.leaves.index_select(0, slots) / total)

    def reprioritize(self, slots: Tensor, priorities: Tensor, where: Tensor) -> None:
        """Set priorities, finite and 0 or more, of slots that are distinct, where they are to be set."""
        self._sums.put(slots, self._leaf(priorities), where)
        self._raise_highest(priorities, where)

    def weights(self, probabilities: Tensor, num_rows: int) -> Tensor:
        """(N P(i))^-beta, or the same divided by its largest, float32 `(size,)`; beta as of the last draw."""
        beta = self._beta(self._drawn) if callable(self._beta) else self._beta
        relative = probabilities * num_rows
        if self._normalize == "batch":
            relative = relative / relative.amin()
        return relative.pow(-beta).float()

    def state_dict(self) -> dict[str, Any]:
        """Leaves and their sums, the highest priority given and the rows drawn so far; waits for the device."""
        levels = [level.numpy() for level in self._sums.stored()]
        return {"levels": levels, "highest": float(self._highest), "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of another capacity, or of a sampler that is none.
        """
        if not isinstance(state, dict):
            raise ShapeError(f"a state must be of a prioritised ring, got {type(state).__name__}; make it as before")
        self._sums.load([torch.from_numpy(level) for level in state["levels"]])
        self._highest.fill_(state["highest"])
        self._drawn = int(state["drawn"])

    def _leaf(self, priorities: Tensor) -> Tensor:
        return (priorities + self._epsilon).pow(self._alpha)

    def _new(self) -> Tensor:
        """Priority of a row that is stored without one, shape ()."""
        if isinstance(self._initial, str):
            return torch.where(self._highest > 0, self._highest, 1.0)
        return torch.full_like(self._highest, self._initial)

    def _raise_highest(self, priorities: Tensor, where: Tensor) -> None:
        if len(priorities):
            torch.maximum(self._highest, torch.where(where, priorities, 0.0).amax(), out=self._highest)


def is_priority(values: Tensor) -> Tensor:
    """Which of the values can be priorities, bool `(n,)`; nan cannot."""
    return (values >= 0) & (values <= LARGEST_PRIORITY)
