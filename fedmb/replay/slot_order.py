"""Slots in an order whose stretches mean something: those that hold a row, those already drawn.

Whoever keeps such an order knows the borders of its stretches; a slot goes from one stretch to its neighbour by being
collected at their border. Deterministic: the same calls give the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.sampler import Slots

SlotNumbers: TypeAlias = "NDArray[np.int32] | NDArray[np.int64]"


def slot_numbers(capacity: int) -> type[np.int32 | np.int64]:
    """The narrower type where it can count the slots: policies of a million rows then cost 4 bytes a row, not 8."""
    return np.int32 if capacity <= np.iinfo(np.int32).max else np.int64


def collect(order: NDArray[Any], places: NDArray[Any], slots: Slots, start: int) -> None:
    """Bring distinct `slots` to `order[start : start + len(slots)]`, in their order, by swaps with what lies there.

    Args:
        order: slot at each place.
        places: place of each slot.
        slots: distinct.
        start: where they shall lie.
    """
    stop = start + len(slots)
    found = places[slots]
    outside = (found < start) | (found >= stop)
    stays = np.ones(len(slots), bool)
    stays[found[~outside] - start] = False
    displaced, vacant = order[start:stop][stays], found[outside]
    order[vacant] = displaced
    places[displaced] = vacant
    order[start:stop] = slots
    places[slots] = np.arange(start, stop)


class SlotOrder:
    """All slots 0 to `capacity` - 1 in an order, ascending at first."""

    def __init__(self, capacity: int) -> None:
        self.order: NDArray[Any] = np.arange(capacity, dtype=slot_numbers(capacity))
        """Slot at each place."""
        self.places: NDArray[Any] = self.order.copy()
        """Place of each slot."""

    def collect(self, slots: Slots, start: int) -> None:
        """Bring distinct slots to the places from `start` on, in their order, by swaps with what lies there."""
        collect(self.order, self.places, slots, start)

    def at(self, places: Slots) -> Slots:
        """Slots at `places`."""
        return self.order[places].astype(np.int64)

    def begin_with(self, slots: NDArray[Any]) -> None:
        """Put distinct slots first, in their order, and the others behind them, ascending.

        Raises:
            ShapeError: a slot comes twice or is none of ours.
        """
        capacity = len(self.order)
        first = np.zeros(capacity, bool)
        if len(slots) and not 0 <= slots.min() <= slots.max() < capacity:
            raise ShapeError(f"slots must be 0 to {capacity - 1}, got {slots.min()} to {slots.max()}")
        first[slots] = True
        if np.count_nonzero(first) != len(slots):
            raise ShapeError(f"slots of a state must be distinct, got {len(slots)} of which some come twice")
        self.order[: len(slots)] = slots
        self.order[len(slots) :] = np.flatnonzero(~first)
        self.places[self.order] = np.arange(capacity)
