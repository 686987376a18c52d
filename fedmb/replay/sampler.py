"""What chooses the rows of a draw: a policy over slots, which never sees a row.

A table tells its sampler which slots were written and which lost their row; the sampler answers draws. Slots are
int64, distinct within one call, and 0 to capacity - 1. Every call takes whole batches.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmb.errors import SettingsError

Slots: TypeAlias = NDArray[np.int64]
Priorities: TypeAlias = NDArray[np.float64]


class Draw(NamedTuple):
    """Slots drawn, and how likely each was."""

    slots: Slots
    """`(size,)`."""
    probabilities: NDArray[np.float64] | None
    """`(size,)`, of one draw; None where all rows are equally likely."""


class Sampler(Protocol):
    """Chooses slots among those that hold a row."""

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1. Called once, by the table, before anything else.

        Raises:
            SettingsError: it serves a table already.
        """

    def store(self, slots: Slots, priorities: Priorities | None) -> None:
        """Take note that distinct slots were written, oldest first; a slot that held a row holds another one now."""

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone; all of them held one."""

    def draw(self, size: int, random: np.random.Generator) -> Draw:
        """Choose `size` slots that hold a row.

        Raises:
            NotEnoughData: nothing can be drawn.
        """

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Set the priorities, finite and 0 or more, of distinct slots that hold a row."""

    def weights(self, draw: Draw, num_rows: int) -> NDArray[np.float32] | None:
        """Importance weights of the rows of a draw from `num_rows` rows; None where all weigh the same."""

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as fresh numpy arrays and JSON scalars; capacity and settings are not part of it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler of `state` stood; it had the same capacity and settings.

        Raises:
            ShapeError: the state is of another capacity.
        """


def checked_capacity(bound: int, capacity: int) -> int:
    """`capacity`, where a policy that now serves `bound` slots may be given it; 0 means it serves none yet.

    Raises:
        SettingsError: it serves a table already, or there is no slot.
    """
    if bound:
        raise SettingsError(f"a sampler or remover serves one table, this one has {bound} slots; make another")
    if capacity < 1:
        raise SettingsError(f"capacity must be 1 row or more, got {capacity}", key="capacity")
    return int(capacity)
