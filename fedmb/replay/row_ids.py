"""Which row lies in which slot, by an id that names a row for ever: `generation * capacity + slot`.

The generation says how many rows had lain in the slot before. Where the oldest row always goes first, that makes the
id the row's number, counted from 0 as rows come, and nothing is stored for it; elsewhere each slot keeps its id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Slots = NDArray[np.int64]

NOT_KEPT = -1  # id of a row that its remover did not keep


class Found(NamedTuple):
    """Slots of ids that still name a row."""

    slots: NDArray[np.int64]
    """One for each id that was found."""
    where: NDArray[np.bool_] | None
    """Which of the ids were found; None where all were."""


class FifoIds:
    """Ids of rows of which the oldest goes first: row number n has the id n and lies in slot n % capacity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.appended = self.oldest = 0

    def __len__(self) -> int:
        return self.appended - self.oldest

    def ids_of(self, slots: Slots) -> Slots:
        """Ids of the rows in these slots, all of which hold one."""
        if self.appended <= self.capacity:
            return slots.copy()
        head = self.appended % self.capacity
        base = self.appended - head
        ids = np.array((base, base - self.capacity)).take(slots >= head)  # half the time of `np.where`
        ids += slots
        return ids

    def slots_of(self, first: int, stop: int) -> Slots:
        """Slots of the rows numbered `first` to `stop`, of which there are at most as many as slots."""
        start = first % self.capacity
        slots = np.arange(start, start + stop - first)
        return slots if start + stop - first <= self.capacity else slots % self.capacity

    def find(self, ids: Slots) -> Found:
        """Slots of those ids that still name a row."""
        if not len(ids):
            return Found(ids, None)
        slots = ids % self.capacity if self.appended > self.capacity else ids
        if self.oldest <= ids.min() and ids.max() < self.appended:
            return Found(slots, None)
        where = (ids >= self.oldest) & (ids < self.appended)
        return Found(slots[where], where)

    def held(self) -> Slots:
        """All slots that hold a row, oldest first."""
        return self.slots_of(self.oldest, self.appended)

    def state_dict(self) -> dict[str, Any]:
        """Two numbers."""
        return {"appended": self.appended, "oldest": self.oldest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood."""
        self.appended, self.oldest = int(state["appended"]), int(state["oldest"])


class SlotIds:
    """Ids of rows that come and go in any order.

    Args:
        capacity: slots.
        code: where a slot's code is kept, `(capacity,)`, such as a mapped file: the id + 1 of the row in it, negative
            once the row is gone, 0 where there never was one.
    """

    def __init__(self, capacity: int, code: NDArray[np.int64] | None = None) -> None:
        self.capacity = capacity
        self.appended = self.oldest = 0
        self._code = np.zeros(capacity, np.int64) if code is None else code
        self._num_rows = int(np.count_nonzero(self._code > 0))

    def __len__(self) -> int:
        return self._num_rows

    def ids_of(self, slots: Slots) -> Slots:
        """Ids of the rows in these slots, all of which hold one."""
        return self._code[slots] - 1

    def find(self, ids: Slots) -> Found:
        """Slots of those ids that still name a row."""
        slots = ids % self.capacity
        where = (self._code[slots] == ids + 1) & (ids >= 0)
        return Found(slots, None) if where.all() else Found(slots[where], where)

    def give_up(self, slots: Slots) -> Slots:
        """Let distinct slots hold no row, and answer which of them had held one."""
        codes = self._code[slots]
        lost = slots[codes > 0]
        self._code[slots] = -np.abs(codes)
        self._num_rows -= len(lost)
        return lost

    def assign(self, slots: Slots) -> Slots:
        """New ids of rows that were put into distinct slots that were given up."""
        codes = -self._code[slots]
        codes = np.where(codes == 0, slots + 1, codes + self.capacity)
        self._code[slots] = codes
        self._num_rows += len(slots)
        return codes - 1

    def held(self) -> Slots:
        """All slots that hold a row, in their own order."""
        return np.flatnonzero(self._code > 0)

    def state_dict(self) -> dict[str, Any]:
        """What is known of each slot."""
        return {"appended": self.appended, "oldest": self.oldest, "code": self._code.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: it is of another capacity.
        """
        if len(state["code"]) != self.capacity:
            raise ShapeError(f"a state must be of {self.capacity} slots, got {len(state['code'])}; use its capacity")
        self.appended, self.oldest = int(state["appended"]), int(state["oldest"])
        self._code[:] = state["code"]
        self.recount()

    def recount(self) -> None:
        """Find out how many slots hold a row, after their codes were changed from outside."""
        self._num_rows = int(np.count_nonzero(self._code > 0))
