"""A uniform sample of an endless stream: whatever its length, each of its rows is kept with the same chance.

Source: Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11(1), algorithm R.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.replay.free_slots import FreeSlots
from fedmb.replay.row_chances import RowChances
from fedmb.replay.sampler import Priorities, Slots, checked_capacity

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Columns


class Reservoir:
    """Row number n (from 0) is kept with chance capacity / (n + 1), and then replaces a random row.

    With a seed, what happens to row number n follows from (seed, client, n) alone: a federated client that resumes
    its stream decides the same, however the stream is cut into batches. Without one the table's generator decides.

    Slots of dropped rows are filled by the next rows, which are then kept for certain: drops bend the sample towards
    rows that arrive after them.

    Args:
        seed: the run's seed, or None.
        client: name or number of this site; looked at with a seed only.

    Raises:
        SettingsError: the seed is negative.
    """

    def __init__(self, *, seed: int | None = None, client: str | int = 0) -> None:
        self._chances = None if seed is None else RowChances(seed, client, "reservoir")
        self._capacity = 0
        self._seen = 0
        self._free: FreeSlots

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._free = FreeSlots(capacity)

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """Free slots first, then a random slot or none."""
        chances = random.random(count) if self._chances is None else self._chances.at(self._seen, count)[0]
        chances *= np.arange(self._seen + 1, self._seen + count + 1)
        slots = chances.astype(np.int64)  # uniform from 0 to the row's number
        slots[slots >= self._capacity] = -1
        self._seen += count
        if len(self._free):
            free = self._free.take(count)
            slots[: len(free)] = free
        return slots

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        self._free.give(slots)

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: chance decides."""

    def state_dict(self) -> dict[str, Any]:
        """How many rows were seen, and the free slots."""
        return {"seen": self._seen, "free": self._free.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of a larger capacity.
        """
        self._free.load_state_dict(state["free"])
        self._seen = int(state["seen"])
