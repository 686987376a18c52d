"""A sample of an endless stream whose classes are as equal as the stream allows.

Source: Chrysakis & Moens 2020, "Online continual learning from imbalanced data", ICML (CBRS), algorithm 1.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import ShapeError
from fedmb.replay.class_members import ClassMembers, ranks_within
from fedmb.replay.free_slots import FreeSlots
from fedmb.replay.row_chances import RowChances
from fedmb.replay.sampler import Priorities, Slots, checked_capacity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns

KEEP, WHICH = 0, 1  # lanes of chances


class ClassBalanced:
    """Keeps all rows of rare classes and a uniform sample of each frequent one, all of these of one size.

    Until the table is full every row is kept. From then on a class is full for good once none has more rows. A row of
    a class that is not full replaces a random row of the largest classes; one of a full class is kept with the chance
    (rows kept of its class) / (rows seen of it), in place of a random one of its class.

    With a seed, the chances of row number n follow from (seed, client, n) alone, and what becomes of the row from them
    and from the rows before it, however the stream is cut into batches. Without one the table's generator gives them.

    Slots of dropped rows are filled by the next rows, whatever their class.

    Args:
        label: column of classes, one scalar a row, of any dtype that can be sorted.
        seed: the run's seed, or None.
        client: name or number of this site; looked at with a seed only.

    Raises:
        SettingsError: the seed is negative.
    """

    def __init__(self, label: str, *, seed: int | None = None, client: str | int = 0) -> None:
        self._label = label
        self._chances = None if seed is None else RowChances(seed, client, "class-balanced", num_lanes=2)
        self._capacity = 0
        self._number = 0  # of the next row
        self._labels: NDArray[Any] | None = None  # of class 0, 1, 2, ..., in the order in which they were first seen
        self._sorted: NDArray[Any]  # the same, ascending
        self._ranked: NDArray[np.int64]  # class of each of these
        self._seen: NDArray[np.int64] = np.zeros(0, np.int64)  # rows of each class in the stream
        self._full: NDArray[np.bool_] = np.zeros(0, bool)
        self._largest: list[int] = []  # classes that none exceeds, ascending; looked at while the table is full
        self._top = 0  # and their size
        self._free: FreeSlots
        self._members: ClassMembers

    def bind(self, capacity: int) -> None:
        """Serve slots 0 to `capacity` - 1."""
        self._capacity = checked_capacity(self._capacity, capacity)
        self._free, self._members = FreeSlots(capacity), ClassMembers(capacity)

    def place(
        self, count: int, columns: Columns, random: np.random.Generator, priorities: Priorities | None = None
    ) -> Slots:
        """Free slots first, then slots of the largest class or of the row's own, or none.

        Raises:
            ShapeError: there is no column of labels, or it does not hold one scalar a row.
        """
        labels = columns.get(self._label)
        if labels is None or labels.shape != (count,):
            got = "no such column" if labels is None else f"shape {labels.shape}"
            raise ShapeError(f"classes need a scalar column {self._label!r} of {count} rows, got {got}; name another")
        chances = random.random((count, 2)).T if self._chances is None else self._chances.at(self._number, count)
        self._number += count
        if not count:
            return np.empty(0, np.int64)
        classes = self._classes(labels)
        seen = self._seen[classes] + ranks_within(classes) + 1
        self._seen += np.bincount(classes, minlength=len(self._seen))

        slots = np.empty(count, np.int64)
        begin = 0
        if len(self._free):
            free = self._free.take(count)
            begin = len(free)
            self._members.add(classes[:begin], free)
            slots[:begin] = free
            if not len(self._free):
                self._find_largest()
        waiting = np.flatnonzero(~self._full[classes[begin:]])
        first, last = (begin + int(waiting[0]), begin + int(waiting[-1]) + 1) if len(waiting) else (count, count)
        self._sample(begin, first, classes, seen, chances, slots)
        self._grow(first, last, classes, seen, chances, slots)
        self._sample(last, count, classes, seen, chances, slots)
        return slots

    def _classes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Class of each label; new ones are numbered as they come."""
        if self._labels is not None:
            places = self._sorted.searchsorted(labels)
            np.minimum(places, len(self._sorted) - 1, out=places)
            unknown = self._sorted[places] != labels
            if not unknown.any():
                return self._ranked[places]
            new, first = np.unique(labels[unknown], return_index=True)
            self._know(np.concatenate([self._labels, new[first.argsort()]]))
        else:
            new, first = np.unique(labels, return_index=True)
            self._know(new[first.argsort()])
        return self._ranked[self._sorted.searchsorted(labels)]

    def _know(self, labels: NDArray[Any]) -> None:
        new = len(labels) - len(self._seen)
        self._labels, self._ranked = labels, labels.argsort()
        self._sorted = labels[self._ranked]
        self._seen = np.concatenate([self._seen, np.zeros(new, np.int64)])
        self._full = np.concatenate([self._full, np.zeros(new, bool)])
        self._members.reserve(len(labels))

    def _find_largest(self) -> None:
        self._top = int(self._members.counts.max())
        self._largest = np.flatnonzero(self._members.counts == self._top).tolist()
        self._full[self._largest] = True

    def _sample(
        self,
        begin: int,
        end: int,
        classes: NDArray[np.int64],
        seen: NDArray[np.int64],
        chances: NDArray[np.float64],
        slots: Slots,
    ) -> None:
        """Rows of full classes: a reservoir each. Sizes of classes stay, so the rows are decided at once."""
        if begin == end:
            return
        classes, chances = classes[begin:end], chances[:, begin:end]
        keeps = chances[KEEP] * seen[begin:end] < self._members.counts[classes]
        slots[begin:end] = np.where(keeps, self._members.pick(classes, chances[WHICH]), -1)

    def _grow(
        self,
        begin: int,
        end: int,
        classes: NDArray[np.int64],
        seen: NDArray[np.int64],
        chances: NDArray[np.float64],
        slots: Slots,
    ) -> None:
        """Rows up to the last one of a class that is not full, one by one: each may change the sizes of two classes.

        Such rows are few: each takes a slot from a full class for one that is not, and no class loses it again.
        """
        members, full, largest = self._members, self._full, self._largest
        for place in range(begin, end):
            class_, which = int(classes[place]), float(chances[WHICH, place])
            if full[class_]:
                own = members.of(class_)
                keeps = chances[KEEP, place] * seen[place] < len(own)
                slots[place] = own[int(which * len(own))] if keeps else -1
                continue
            chosen = int(which * self._top * len(largest))
            old = largest[chosen // self._top]
            slot = int(members.of(old)[chosen % self._top])
            members.move(slot, class_)
            slots[place] = slot
            largest.remove(old)
            if members.counts[class_] == self._top:
                insort(largest, class_)
                full[class_] = True
            if not largest:
                self._find_largest()
                largest = self._largest

    def drop(self, slots: Slots) -> None:
        """Take note that the rows of these slots are gone."""
        self._members.remove(slots)
        self._free.give(slots)
        self._full &= self._members.counts > 0  # a class without rows could never get one as a full one

    def reprioritize(self, slots: Slots, priorities: Priorities) -> None:
        """Nothing: classes decide."""

    def state_dict(self) -> dict[str, Any]:
        """Classes in the order in which they were first seen: labels, rows seen, slots; and the free slots."""
        return {
            "number": self._number,
            "labels": None if self._labels is None else self._labels.copy(),
            "seen": self._seen.copy(),
            "full": self._full.copy(),
            "members": self._members.state_dict(),
            "free": self._free.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: the state is of a larger capacity.
        """
        self._free.load_state_dict(state["free"])
        self._number = int(state["number"])
        self._labels, self._members = None, ClassMembers(self._capacity)
        self._seen, self._full = state["seen"][:0].copy(), state["full"][:0].copy()
        if state["labels"] is None:
            return
        self._know(state["labels"].copy())
        self._seen, self._full = state["seen"].copy(), state["full"].copy()
        self._members.load_state_dict(state["members"])
        if not len(self._free):
            self._find_largest()
