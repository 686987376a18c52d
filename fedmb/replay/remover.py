"""What chooses the slot of a new row, and so which row must go: first in first out, and last in first out.

A remover sees the columns of the rows that arrive, never those that are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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
