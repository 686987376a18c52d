"""What a remover would know, had it seen every row that is whole in a table whose process was killed.

A snapshot holds a remover as it was then. Rows have come and gone since, and say all that most removers go by: where
they lie, when they came and what they are. What they do not say: priorities given since, so rows that came since have
the one of a new row; and rows of each class that came since and were not kept, which `ClassBalanced` does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import SettingsError
from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.lowest_tree import LAST
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.reservoir import Reservoir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.remover import Remover
    from fedmb.replay.row_store import RowStore
    from fedmb.replay.sampler import Slots

RECOVERABLE = (Fifo, Lifo, Reservoir, LowestPriority, ClassBalanced)


@dataclass(frozen=True, slots=True)
class Survivors:
    """The rows that are whole."""

    store: RowStore
    """Where they lie."""
    appended: int
    """Number of the next row."""
    slots: Slots
    """Of all of them, oldest first."""
    numbers: NDArray[np.int64]
    """When each came."""
    is_fresh: NDArray[np.bool_]
    """Which came after the snapshot."""


def check_recoverable(remover: Remover) -> None:
    """Refuse a remover that could not go on after its process was killed.

    Raises:
        SettingsError: it is none of ours.
    """
    if type(remover) not in RECOVERABLE:
        raise SettingsError(
            f"a table in a folder needs a remover of {[kind.__name__ for kind in RECOVERABLE]}, got "
            f"{type(remover).__name__}: nobody could tell it which rows are there; keep the table in memory"
        )


def recover_remover(remover: Remover, rows: Survivors) -> None:
    """Let the remover, which is as it was at the snapshot, know what is there."""
    free = _free(rows)
    match remover:
        case Fifo():
            remover.load_state_dict({"placed": rows.appended})
        case Lifo():
            remover.load_state_dict({"order": rows.slots, "free": free})
        case Reservoir():
            remover.load_state_dict({"seen": rows.appended, "free": free})
        case LowestPriority():
            state = remover.state_dict()
            values, ages = np.full(rows.store.capacity, np.inf), np.full(rows.store.capacity, LAST)
            ages[rows.slots] = rows.numbers
            values[rows.slots] = np.where(rows.is_fresh, state["highest"] or 1.0, state["values"][rows.slots])
            remover.load_state_dict({**state, "values": values, "ages": ages, "placed": rows.appended, "free": free})
        case ClassBalanced():
            remover.load_state_dict({**_classes(remover, rows), "number": rows.appended, "free": free})
        case _:
            raise AssertionError("check_recoverable was called")


def _free(rows: Survivors) -> dict[str, Any]:
    filled = int(rows.slots.max(initial=-1)) + 1
    return {"filled": filled, "dropped": np.setdiff1d(np.arange(filled), rows.slots, assume_unique=True)}


def _classes(remover: ClassBalanced, rows: Survivors) -> dict[str, Any]:
    state = remover.state_dict()
    found = rows.store.column(remover._label)[rows.slots]  # noqa: SLF001  # a column's name, not the remover's memory
    labels = found[:0] if state["labels"] is None else state["labels"]
    _, first = np.unique(found, return_index=True)
    new = found[np.sort(first)]
    labels = np.concatenate([labels, new[~np.isin(new, labels)]])
    order = np.argsort(labels)
    classes = order[np.searchsorted(labels[order], found)]
    more = len(labels) - len(state["seen"])
    counts = np.bincount(classes, minlength=len(labels))
    seen = np.concatenate([state["seen"], np.zeros(more, np.int64)])
    seen = np.maximum(seen + np.bincount(classes[rows.is_fresh], minlength=len(labels)), counts)
    full = np.concatenate([state["full"], np.zeros(more, bool)]) & (counts > 0)
    members = {"counts": counts, "slots": rows.slots[np.argsort(classes, kind="stable")]}
    return {"labels": labels if len(labels) else None, "seen": seen, "full": full, "members": members}
