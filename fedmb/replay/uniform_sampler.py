"""Uniform draws, with replacement, from all rows that a table holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import NotEnoughData
from fedmb.replay.sampler import Draw, Priorities, Slots, checked_capacity
from fedmb.replay.slot_order import SlotOrder

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Uniform:
    """Every row is equally likely at each draw; a row may come twice in a batch.

    While the slots with a row are 0 to n - 1, which they are until rows are dropped, a draw is one call of the
    generator and nothing is kept but n. The first hole builds an order of slots (8 bytes a slot).
    """

    def __init__(self) -> None:
        self._capacity = 0
        self._count = 0
        self._order: SlotOrder | None = None
        self._drawing = np.empty(0)

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)

    def store(self, slots: Slots, priorities: Priorities | None) -> None:
        """Take note that distinct slots were written; priorities are not looked at."""
        if not len(slots) or self._count == self._capacity:
            return
        if self._order is None:
            stop = int(slots.max()) + 1
            if stop <= self._count:
                return
            if stop - self._count == np.count_nonzero(slots >= self._count):
                self._count = stop
                return
            self._order = SlotOrder(self._capacity)
        new = slots[self._order.places[slots] >= self._count]
        self._order.collect(new, self._count)
        self._count += len(new)

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        if self._order is None:
            self._order = SlotOrder(self._capacity)
        self._count -= len(slots)
        self._order.collect(slots, self._count)

    def draw(self, size: int, random: np.random.Generator) -> Draw:
        """Slots with a row, each draw independent of the others.

        Raises:
            NotEnoughData: no slot holds a row.
        """
        if not self._count:
            raise NotEnoughData(f"a draw of {size} rows needs a row to draw, got none; append some first")
        # A third of the time of `random.integers`; chances of two of n rows differ by n / 2^53 of themselves at most.
        if len(self._drawing) != size:
            self._drawing = np.empty(size)
        random.random(out=self._drawing)
        np.multiply(self._drawing, self._count, out=self._drawing)
        drawn = self._drawing.astype(np.int64)
        return Draw(drawn if self._order is None else self._order.at(drawn), None)

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: all rows are equal."""

    def weights(self, draw: Draw, num_rows: int) -> NDArray[np.float32] | None:
        """None: all rows weigh the same."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """How many slots hold a row and, where they are not the first ones, which, in the order of draws."""
        order = None if self._order is None else self._order.order[: self._count].copy()
        return {"count": self._count, "order": order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood."""
        order = None
        if state["order"] is not None:
            order = SlotOrder(self._capacity)
            order.begin_with(state["order"])
        self._count, self._order = int(state["count"]), order
