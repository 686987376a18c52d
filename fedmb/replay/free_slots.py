"""Slots without a row, in the order in which removers fill them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from fedmb.replay.sampler import Slots


class FreeSlots:
    """Slots whose row was dropped, the last one first, then those that were never filled, ascending."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._filled = 0  # slots from here on were never filled
        self._stack = np.empty(0, np.int64)
        self._height = 0

    def __len__(self) -> int:
        """Slots that can be taken."""
        return self._height + self._capacity - self._filled

    def take(self, count: int) -> Slots:
        """At most `count` slots, which are free no longer."""
        again = min(count, self._height)
        self._height -= again
        first, self._filled = self._filled, min(self._capacity, self._filled + count - again)
        new = np.arange(first, self._filled)
        return np.concatenate([self._stack[self._height : self._height + again][::-1], new]) if again else new

    def give(self, slots: Slots) -> None:
        """The rows of these slots are gone."""
        first, self._height = self._height, self._height + len(slots)
        if self._height > len(self._stack):
            self._stack = np.concatenate([self._stack[:first], np.empty(2 * self._height - first, np.int64)])
        self._stack[first : self._height] = slots

    def state_dict(self) -> dict[str, Any]:
        """Where the slots that were never filled begin, and those that are free again."""
        return {"filled": self._filled, "dropped": self._stack[: self._height].copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of a larger capacity.
        """
        if state["filled"] > self._capacity:
            raise ShapeError(f"a state of {state['filled']} filled slots does not fit a capacity of {self._capacity}")
        self._filled, self._stack = int(state["filled"]), state["dropped"].copy()
        self._height = len(self._stack)
