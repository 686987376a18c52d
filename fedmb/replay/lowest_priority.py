"""Keeps the rows of the highest priority."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.replay.free_slots import FreeSlots
from fedmb.replay.lowest_tree import LowestTree, lowest_places
from fedmb.replay.sampler import Priorities, Slots, checked_capacity

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Columns


class LowestPriority:
    """The row of the lowest priority goes first, of equal ones the oldest.

    A new row whose priority is lower than all others is the one that goes: it is not kept. A row that comes without a
    priority is given the highest one ever given (1 before there is one), as `Prioritized` does.
    """

    def __init__(self) -> None:
        self._capacity = 0
        self._placed = 0
        self._highest = 0.0  # priority ever given; 0 means none yet
        self._free: FreeSlots
        self._tree: LowestTree

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._free, self._tree = FreeSlots(capacity), LowestTree(capacity)

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """Free slots first, then the slots of the lowest rows; -1 for a row that is lower than they are."""
        if priorities is None:
            priorities = np.full(count, self._highest or 1.0)
        elif count:
            self._highest = max(self._highest, float(priorities.max()))
        ages = np.arange(self._placed, self._placed + count)
        self._placed += count
        slots = self._free.take(count)
        self._tree.set(slots, priorities[: len(slots)], ages[: len(slots)])
        excess = count - len(slots)
        if not excess:
            return slots
        new, new_ages = priorities[len(slots) :], ages[len(slots) :]
        victims = self._tree.lowest(excess)
        values = np.concatenate([self._tree.values[victims], new])
        goes = lowest_places(values, np.concatenate([self._tree.ranks[victims], new_ages]), excess)
        victims = victims[np.sort(goes[goes < len(victims)])]
        stays = np.ones(excess, bool)
        stays[goes[goes >= len(values) - excess] - (len(values) - excess)] = False
        chosen = np.full(excess, -1)
        chosen[stays] = victims
        self._tree.set(victims, new[stays], new_ages[stays])
        return np.concatenate([slots, chosen])

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        self._tree.forget(slots)
        self._free.give(slots)

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Take note of new priorities of distinct slots that hold a row."""
        if len(slots):
            self._highest = max(self._highest, float(priorities.max()))
            self._tree.set(slots, priorities)

    def state_dict(self) -> dict[str, Any]:
        """Priority and age of the row in each slot, the free slots, rows placed and the highest priority given."""
        return {
            "values": self._tree.values.copy(),
            "ages": self._tree.ranks.copy(),
            "free": self._free.state_dict(),
            "placed": self._placed,
            "highest": self._highest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of another capacity.
        """
        self._tree.load(state["values"], state["ages"])
        self._free.load_state_dict(state["free"])
        self._placed, self._highest = int(state["placed"]), float(state["highest"])
