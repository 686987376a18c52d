"""Which slots hold rows of which class: a list of slots for each class, all in one array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.replay.slot_order import collect, slot_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.sampler import Slots

LEAST_ROOM = 8


def ranks_within(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry, how many entries before it are of its class."""
    order = classes.argsort(kind="stable")
    grouped = classes[order]
    places = np.arange(len(classes))
    begins = np.zeros(len(classes), np.int64)
    begins[1:] = np.where(grouped[1:] != grouped[:-1], places[1:], 0)
    ranks = np.empty_like(begins)
    ranks[order] = places - np.maximum.accumulate(begins)
    return ranks


class ClassMembers:
    """The slots of each class, in the order in which they joined, but for a removed one, whose place the last takes.

    A class has room for more slots than it holds; without room it moves to the array's end, and where the array ends
    all classes are laid out anew. Both cost as much as the slots moved, half of which joined since the last time.
    """

    def __init__(self, capacity: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)
        """Slots of each class."""
        self.classes: NDArray[np.int64] = np.full(capacity, -1)
        """Class of each slot, -1 where it holds no row."""
        self._starts = np.zeros(0, np.int64)
        self._rooms = np.zeros(0, np.int64)
        self._members: NDArray[Any] = np.zeros(0, slot_numbers(capacity))
        self._places: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self._stop = 0

    def reserve(self, num_classes: int) -> None:
        """Know at least this many classes."""
        new = num_classes - len(self.counts)
        if new > 0:
            self.counts, self._starts, self._rooms = (
                np.concatenate([part, np.zeros(new, np.int64)]) for part in (self.counts, self._starts, self._rooms)
            )

    def of(self, class_: int) -> NDArray[Any]:
        """Slots of a class, a live view not to be written to."""
        start = self._starts[class_]
        return self._members[start : start + self.counts[class_]]

    def pick(self, classes: NDArray[np.int64], chances: NDArray[np.float64]) -> Slots:
        """For each entry a slot of its class; no class may be empty."""
        return self._members[self._starts[classes] + (chances * self.counts[classes]).astype(np.int64)].astype(np.int64)

    def add(self, classes: NDArray[np.int64], slots: Slots) -> None:
        """Distinct slots, none of any class yet, join their classes, in order."""
        ranks = ranks_within(classes)
        joining = np.bincount(classes, minlength=len(self.counts))
        self._make_room(np.flatnonzero(self.counts + joining > self._rooms), joining)
        places = self._starts[classes] + self.counts[classes] + ranks
        self._members[places] = slots
        self._places[slots] = places
        self.classes[slots] = classes
        self.counts += joining

    def move(self, slot: int, class_: int) -> None:
        """A slot leaves its class for another one."""
        old = self.classes[slot]
        last = self._starts[old] + self.counts[old] - 1
        place = self._places[slot]
        other = self._members[last]
        self._members[place] = other
        self._places[other] = place
        self.counts[old] -= 1
        if self.counts[class_] == self._rooms[class_]:
            joining = np.zeros_like(self.counts)
            joining[class_] = 1
            self._make_room(np.array([class_]), joining)
        place = self._starts[class_] + self.counts[class_]
        self._members[place] = slot
        self._places[slot] = place
        self.classes[slot] = class_
        self.counts[class_] += 1

    def remove(self, slots: Slots) -> None:
        """Distinct slots leave their classes."""
        classes = self.classes[slots]
        for class_ in np.unique(classes):
            leaving = slots[classes == class_]
            self.counts[class_] -= len(leaving)
            collect(self._members, self._places, leaving, int(self._starts[class_] + self.counts[class_]))
        self.classes[slots] = -1

    def _make_room(self, classes: NDArray[np.int64], joining: NDArray[np.int64]) -> None:
        for class_ in classes.tolist():
            room = max(LEAST_ROOM, 2 * int(self.counts[class_] + joining[class_]))
            if self._stop + room > len(self._members):
                self._lay_out(2 * (self.counts + joining) + LEAST_ROOM)
                return
            self._put(class_, self._members, room)

    def _put(self, class_: int, source: NDArray[Any], room: int) -> None:
        start, count = self._starts[class_], self.counts[class_]
        members = source[start : start + count]
        self._members[self._stop : self._stop + count] = members
        self._places[members] = np.arange(self._stop, self._stop + count)
        self._starts[class_], self._rooms[class_] = self._stop, room
        self._stop += room

    def _lay_out(self, rooms: NDArray[np.int64]) -> None:
        """Give every class its room in a new array that is half empty."""
        old, self._stop = self._members, 0
        self._members = np.zeros(2 * int(rooms.sum()), old.dtype)
        for class_, room in enumerate(rooms.tolist()):
            self._put(class_, old, room)

    def state_dict(self) -> dict[str, Any]:
        """How many slots each class has, and the slots of all classes, one class after the other."""
        lists = [self.of(class_) for class_ in range(len(self.counts))]
        return {"counts": self.counts.copy(), "slots": np.concatenate([self._members[:0], *lists])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood."""
        self.counts = np.zeros(len(state["counts"]), np.int64)
        self._starts, self._rooms = self.counts.copy(), self.counts.copy()
        self._members, self._stop = self._members[:0], 0
        self.classes[:] = -1
        self.add(np.repeat(np.arange(len(self.counts)), state["counts"]), state["slots"].astype(np.int64))
