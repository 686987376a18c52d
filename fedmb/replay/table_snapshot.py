"""A table's state, taken under its lock and stored without it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import SettingsError
from fedmb.replay.snapshot import Streamed, Unfinished, newest

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedmb.replay.limiter import RateLimiter
    from fedmb.replay.sampler import Slots
    from fedmb.replay.table_contents import TableContents
    from fedmb.replay.table_folder import TableFolder

PIECE = 1 << 22  # bytes of rows that a snapshot takes at once


def state_of(contents: TableContents, limiter: RateLimiter | None, *, rows: bool = True) -> dict[str, Any]:
    """Everything but settings; the table's lock is held."""
    contents.settle()
    state = contents.state_dict(rows=rows)
    return {**state, "limiter": None if limiter is None else limiter.state_dict()}


def store_table(
    contents: TableContents,
    limiter: RateLimiter | None,
    lock: threading.Lock,
    own: TableFolder | None,
    folder: str | Path | None,
) -> Path:
    """Store a table in a folder, by default its own, and answer the file.

    Raises:
        SettingsError: there is no folder.
        OSError: the disk does not take it; earlier generations stay as they are.
    """
    place = Path(folder) if folder is not None else own.path if own is not None else None
    if place is None:
        raise SettingsError("a snapshot needs a folder, got none, and the table is in memory; name one")
    keeps_rows = own is not None and place.resolve() == own.path.resolve()
    if own is None or not keeps_rows:
        with stopped(contents, limiter, lock) as state:
            unfinished = Unfinished(place, state)
        return unfinished.finish()
    own.flush()  # what changes until the second time, under the lock, is little
    with lock:
        own.flush()
        unfinished = Unfinished(place, state_of(contents, limiter, rows=False))
    return unfinished.finish()


@contextmanager
def stopped(contents: TableContents, limiter: RateLimiter | None, lock: threading.Lock) -> Iterator[dict[str, Any]]:
    """Everything but settings, the rows as pieces to be written once; nothing changes within this context."""
    with lock:
        yield {**state_of(contents, limiter, rows=False), "rows": _streamed(contents)}


def state_with_rows(place: Path, part: str = "rows") -> dict[str, Any]:
    """The state that a snapshot holds: the newest whole one in a folder, or the one in a file.

    Raises:
        CorruptSnapshot: there is none that can be trusted.
        SettingsError: there is none, or it has not this part.
    """
    state = newest(place)
    if state is None or state.get(part) is None:
        raise SettingsError(f"there must be a snapshot with {part} to restore, {place} has none; make one first")
    return state


def _streamed(contents: TableContents) -> dict[str, Streamed]:
    """The rows of a state piece by piece; they must not change until they are written."""
    slots, store = contents.view.slots_in_order(), contents.store
    step = max(1, PIECE // store.row_bytes)
    return {
        name: Streamed(np.dtype(column.dtype), (len(slots), *column.shape), _pieces(store.column(name), slots, step))
        for name, column in store.schema.items()
    }


def _pieces(column: NDArray[Any], slots: Slots, step: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(slots), step):
        yield column[slots[start : start + step]]
