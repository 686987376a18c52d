"""Draws that go through all rows in passes, as epochs do: each row once before any comes again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import NotEnoughData
from fedmb.replay.sampler import Draw, Priorities, Slots, checked_capacity
from fedmb.replay.slot_order import SlotOrder

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WithoutReplacement:
    """Each row once a pass, in random order, and never twice in a batch.

    A row that is stored joins the pass under way, and so does one that replaces a row already drawn. A draw at the end
    of a pass takes the rows that are left and fills up with rows of the next pass, the ones just taken excepted.
    """

    def __init__(self) -> None:
        self._capacity = 0
        self._drawn = 0  # places before it: slots drawn in this pass
        self._count = 0  # places from there to here: slots that this pass still owes; behind it: slots without a row
        self._slots: SlotOrder

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._slots = SlotOrder(capacity)

    def store(self, slots: Slots, priorities: Priorities | None) -> None:
        """Take note that distinct slots were written: each will be drawn in this pass. Priorities are not looked at."""
        places = self._slots.places[slots]
        new, again = slots[places >= self._count], slots[places < self._drawn]
        self._slots.collect(new, self._count)
        self._count += len(new)
        self._drawn -= len(again)
        self._slots.collect(again, self._drawn)

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        drawn = slots[self._slots.places[slots] < self._drawn]
        self._drawn -= len(drawn)
        self._slots.collect(drawn, self._drawn)
        self._count -= len(slots)
        self._slots.collect(slots, self._count)

    def draw(self, size: int, random: np.random.Generator) -> Draw:
        """`size` different slots, which this pass still owes as far as there are any.

        Raises:
            NotEnoughData: fewer slots than `size` hold a row.
        """
        if size > self._count:
            raise NotEnoughData(
                f"a batch without repeats needs {size} rows, got {self._count}; append more, or draw with replacement"
            )
        left = self._count - self._drawn
        if size <= left:
            return Draw(self._take(size, self._count, random), None)
        last = self._take(left, self._count, random)
        self._drawn = 0
        self._slots.collect(last, self._count - left)  # out of reach of the rest of this batch
        return Draw(np.concatenate([last, self._take(size - left, self._count - left, random)]), None)

    def _take(self, size: int, stop: int, random: np.random.Generator) -> Slots:
        """`size` random slots from the places that are not drawn yet and lie before `stop`."""
        places = self._drawn + random.choice(stop - self._drawn, size, replace=False)
        taken = self._slots.at(places)
        self._slots.collect(taken, self._drawn)
        self._drawn += size
        return taken

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: all rows are equal."""

    def weights(self, draw: Draw, num_rows: int) -> NDArray[np.float32] | None:
        """None: all rows weigh the same."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The slots that hold a row in the order of draws, and how many of them were drawn in this pass."""
        return {"drawn": self._drawn, "order": self._slots.order[: self._count].copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood."""
        self._slots.begin_with(state["order"])
        self._drawn, self._count = int(state["drawn"]), len(state["order"])
