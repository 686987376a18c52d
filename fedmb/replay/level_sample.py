"""Which of all rows ever shown are kept: the ones with the smallest keys, in groups of level shares.

While there is room all rows are kept. After that each new row makes one row go: of the group that has most rows, the
one with the largest key; it may be the new row itself. A group that has lost a row keeps exactly those of its rows
whose keys lie below that of the last one lost, its threshold. So what is kept is a function of the rows and keys
alone, a uniform sample of each group, and no counter has to be undone when the memory goes back.

Source: bottom-k samples, Cohen and Kaplan 2007 (doi 10.1145/1281100.1281133); which group loses a row is CBRS's rule,
Chrysakis and Moens 2020 (ICML), whose reservoirs within a class are here such samples.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import CorruptRing
from fedmb.replay.losing_order import LosingOrder
from fedmb.replay.undoable_rows import EMPTY, STAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.undoable_rows import UndoableRows


class LevelSample:
    """Chooses rows by key and group, and keeps book over slots that can be undone.

    Args:
        rows: has `window` slots for kept rows, as many for rows that went, and one for the threshold of each group.
        window: rows that are kept.
        num_groups: groups are 0 to this, exclusively.

    Raises:
        CorruptRing: the slots hold what no such choice leaves behind.
    """

    def __init__(self, rows: UndoableRows, window: int, num_groups: int) -> None:
        self._rows = rows
        self._window = window
        self._num_groups = num_groups
        self._check()
        self.read()

    def __len__(self) -> int:
        """Rows that are kept."""
        return self._kept

    @property
    def counts(self) -> NDArray[np.int64]:
        """Kept rows of each group, `(num_groups,)`."""
        return self._counts.copy()

    def slots(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of the kept rows in these places, which are 0 to `len` exclusively."""
        return self._slot_of[places]

    def read(self) -> None:
        """Find out from the slots what is kept, who goes next and which slots are free."""
        rows, kept = self._rows, self._rows.kept()
        self._kept = len(kept)
        rows.place[kept] = np.arange(len(kept))  # gaps are left only where a moment could not be put together
        self._slot_of = np.zeros(self._window, np.int64)
        self._slot_of[: len(kept)] = kept
        self._counts = np.bincount(rows.group[kept], minlength=self._num_groups)
        departed = rows.departed()
        self._thresholds = np.full(self._num_groups, np.inf)
        np.minimum.at(self._thresholds, rows.group[departed], rows.key[departed])
        is_old = rows.gone[departed] < rows.horizon
        self._base = {int(rows.group[slot]): int(slot) for slot in departed[is_old]}  # the last one lost by a group
        rows.number[np.setdiff1d(departed[is_old], list(self._base.values()))] = EMPTY
        self._departed = deque(departed[~is_old].tolist())
        self._free: list[int] = np.flatnonzero(rows.number == EMPTY)[::-1].tolist()
        self._orders: dict[int, LosingOrder] = {}

    def _check(self) -> None:
        """Refuse a damaged file here, where it can be named, and not as an index out of range at some later row."""
        rows = self._rows
        used = rows.number != EMPTY
        number, gone, key, group = (column[used] for column in (rows.number, rows.gone, rows.key, rows.group))
        is_sound = (number >= 0) & (gone >= number) & (key >= 0) & (key < 1) & (group >= 0) & (group < self._num_groups)
        if not is_sound.all() or len(rows.kept()) > self._window:
            raise CorruptRing(
                f"{rows.path} cannot be trusted: {np.count_nonzero(~is_sound)} of {len(is_sound)} rows have impossible "
                f"marks, {len(rows.kept())} of at most {self._window} are kept; delete it to begin with an empty memory"
            )

    def choose(
        self, first: int, keys: NDArray[np.float64], groups: NDArray[np.int64]
    ) -> tuple[list[int], NDArray[np.int64]]:
        """Decide about at most `window` rows, numbered from `first` on.

        Answers the slots of those that enter and which of the rows they are; the caller writes them and commits.
        """
        entering = np.flatnonzero(keys < self._thresholds[groups])
        self._free_slots(len(entering))
        roomy = self._window - self._kept
        slots = self._fill(entering[:roomy], first, keys, groups)
        chosen = entering[:roomy].tolist()
        for row in entering[roomy:].tolist():
            if (slot := self._enter(first + row, int(groups[row]), float(keys[row]))) is not None:
                slots.append(slot)
                chosen.append(row)
        return slots, np.array(chosen, np.int64)

    def go_back_beyond_the_horizon(self, appended: int) -> None:
        """Give up the moments from the horizon on, to the kept rows of that moment that came before `appended`.

        The thresholds stay those of the horizon, so what is kept stays a uniform sample of each group.
        """
        rows, marks = self._rows, list(self._base.values())
        rows.number[marks] = np.minimum(rows.number[marks], appended - 1)
        rows.gone[marks] = np.minimum(rows.gone[marks], appended - 1)

    def _fill(
        self, entering: NDArray[np.int64], first: int, keys: NDArray[np.float64], groups: NDArray[np.int64]
    ) -> list[int]:
        """Let rows in while there is room, and answer their slots."""
        count = len(entering)
        if not count:
            return []
        rows, places = self._rows, np.arange(self._kept, self._kept + count)
        slots, self._free = self._free[: -count - 1 : -1], self._free[:-count]
        self._slot_of[places] = slots
        rows.place[slots], rows.key[slots], rows.group[slots] = places, keys[entering], groups[entering]
        rows.gone[slots], rows.number[slots] = STAYS, first + entering
        self._counts += np.bincount(groups[entering], minlength=self._num_groups)
        self._kept += count
        self._orders.clear()
        return slots

    def _enter(self, number: int, group: int, key: float) -> int | None:
        """Let a row in and another go; answers its slot, or None where it goes itself."""
        if key >= self._thresholds[group]:  # a row of the same batch has lowered it
            return None
        rows, counts, slot = self._rows, self._counts, self._free.pop()
        most = int(counts.argmax())
        loser = group if counts[group] + 1 >= counts[most] else most
        order = self._order(loser)
        goes_itself = loser == group and key > order.largest
        self._thresholds[loser] = key if goes_itself else order.largest
        rows.key[slot], rows.group[slot] = key, group
        if goes_itself:  # it leaves a slot without columns, which says how the threshold changed
            rows.place[slot], rows.gone[slot], rows.number[slot] = EMPTY, number, number
            self._departed.append(slot)
            return None
        place = order.pop()
        leaving = int(self._slot_of[place])
        rows.place[slot], rows.gone[slot], rows.number[slot] = place, STAYS, number
        rows.gone[leaving] = number
        self._departed.append(leaving)
        self._slot_of[place] = slot
        if loser != group:
            counts[loser] -= 1
            counts[group] += 1
        if group in self._orders:
            self._orders[group].push(key, place)
        return slot

    def _order(self, group: int) -> LosingOrder:
        if group not in self._orders:
            slots = self._slot_of[: self._kept]
            places = np.flatnonzero(self._rows.group[slots] == group)
            self._orders[group] = LosingOrder(self._rows.key[slots[places]], places)
        return self._orders[group]

    def _free_slots(self, needed: int) -> None:
        """Have `needed` free slots, at the cost of moments long past: what went first is given up first."""
        freed: list[int] = []
        horizon = self._rows.horizon
        while len(self._free) + len(freed) < needed:
            slot = self._departed.popleft()
            horizon = int(self._rows.gone[slot]) + 1
            group = int(self._rows.group[slot])
            if group in self._base:
                freed.append(self._base[group])
            self._base[group] = slot
        if horizon != self._rows.horizon:
            self._rows.give_up(freed, horizon)
            self._free += freed
