"""What chooses the slot of a new row, and so which row must go: first in first out, and last in first out.

A remover sees the columns of the rows that arrive, never those that are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.replay.free_slots import FreeSlots
from fedmb.replay.sampler import Priorities, Slots, checked_capacity

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Columns


class Remover(Protocol):
    """Chooses where new rows go."""

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1. Called once, by the table, before anything else.

        Raises:
            SettingsError: it serves a table already.
        """

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """A slot for each of `count` new rows, in their order; -1 means that a row is not kept.

        A slot may come twice in one call: the later row wins. Slots that hold a row lose it.

        Args:
            count: rows that arrive.
            columns: their columns.
            random: where a choice is by chance.
            priorities: of the new rows, where known.
        """

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these distinct slots are gone; all of them held one."""

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Take note of new priorities of distinct slots that hold a row."""

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as fresh numpy arrays and JSON scalars; capacity and settings are not part of it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the remover of `state` stood; it had the same capacity and settings.

        Raises:
            ShapeError: the state is of another capacity.
        """


class Fifo:
    """The oldest row goes first: row number n lies in slot n % capacity, whether or not rows were dropped."""

    def __init__(self) -> None:
        self._capacity = 0
        self._placed = 0

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """The next slots, round and round."""
        first = self._placed % self._capacity
        self._placed += count
        if first + count <= self._capacity:
            return np.arange(first, first + count)
        return np.arange(first, first + count) % self._capacity

    def drop(self, slots: Slots) -> None:
        """Nothing: a hole is filled when its turn comes."""

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: age decides."""

    def state_dict(self) -> dict[str, Any]:
        """How many rows were placed."""
        return {"placed": self._placed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood."""
        self._placed = int(state["placed"])


class Lifo:
    """The newest row goes first: once the table is full, its oldest rows stay and each new row replaces the last."""

    def __init__(self) -> None:
        self._capacity = 0
        self._height = 0
        self._free: FreeSlots
        self._stack: (
            Slots  # slots by age, oldest first; entries of rows that were dropped stay until they are in the way
        )
        self._places: Slots  # of the entry of each slot's row; -1 where it holds none

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._free = FreeSlots(capacity)
        self._stack = np.empty(2 * capacity, np.int64)
        self._places = np.full(capacity, -1)

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """Free slots first, then the slot of the newest row, again and again."""
        free = self._free.take(count)
        if self._height + len(free) > len(self._stack):
            self._shrink()
        self._places[free] = np.arange(self._height, self._height + len(free))
        self._stack[self._height : self._height + len(free)] = free
        self._height += len(free)
        if len(free) == count:
            return free
        top = self._stack[self._height - 1]  # no slot is free, so the entry on top is no dropped row's
        return np.concatenate([free, np.full(count - len(free), top)])

    def _shrink(self) -> None:
        """Leave out the entries of dropped rows."""
        order = self._order()
        self._height = len(order)
        self._stack[: self._height] = order
        self._places[order] = np.arange(self._height)

    def _order(self) -> Slots:
        entries = self._stack[: self._height]
        held: Slots = entries[self._places[entries] == np.arange(self._height)]
        return held

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        self._places[slots] = -1
        self._free.give(slots)

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: age decides."""

    def state_dict(self) -> dict[str, Any]:
        """Slots by the age of their rows, oldest first, and the free ones."""
        return {"order": self._order(), "free": self._free.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of a larger capacity.
        """
        self._free.load_state_dict(state["free"])
        self._height = len(state["order"])
        self._stack[: self._height] = state["order"]
        self._places[:] = -1
        self._places[state["order"]] = np.arange(self._height)
