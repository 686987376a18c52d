"""Which row of a ring on a device lies where: row number n has the id n and lies in slot n % capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from fedmb.replay.row_ids import NOT_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Stretch(NamedTuple):
    """Rows that lie behind each other."""

    start: int
    """Slot of the first of them."""
    first: int
    """Which of the rows that is."""
    stop: int
    """Behind the last of them."""


def stretches(number: int, count: int, capacity: int) -> Iterator[Stretch]:
    """Where `count` rows lie, row `number` first: at most `capacity`, in two stretches where they go round the end."""
    start = number % capacity
    head = min(count, capacity - start)
    if head:
        yield Stretch(start, 0, head)
    if head < count:
        yield Stretch(0, head, count)


def ids_of(slots: Tensor, appended: int, capacity: int) -> Tensor:
    """Ids of the rows in slots that hold one, after `appended` rows."""
    if appended <= capacity:
        return slots
    head = appended % capacity
    return slots + (appended - head) - capacity * (slots >= head)


def last_of_each(ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids in ascending order, their places, and which of them is the last of an id that is wanted.

    Writing only those gives the same whatever order a device writes in.

    Args:
        ids: int64 `(n,)`, 0 or more where wanted.
        wanted: bool `(n,)`; the others are put in front, as -1.
    """
    ordered, places = torch.where(wanted, ids, NOT_KEPT).sort(stable=True)
    is_last = ordered >= 0
    is_last[:-1] &= ordered[1:] != ordered[:-1]
    return ordered, places, is_last
