"""Rows in slots, each with when it came and when it went, so that the set of any recent moment can be put together.

    number    number of the row in this slot; EMPTY where there is none
    gone      number of the row that made it go; STAYS while it is kept
    place     its place among the kept rows, from 0 on without gaps, which the row that makes it go inherits
    key       its random key, and
    group     its group: what whoever ranks rows needs to know of them

At the moment when n rows had been appended, the rows with number < n <= gone were kept. A row that goes stays in its
slot until the slot is needed, so going back to that moment is forgetting what came since.

Slots differ from one run to the next, places do not: draws name places. In a mapped file the order of stores is the
protocol: what will be overwritten is given up by a commit first, and a commit ends every append. Whatever a killed
process left half-done carries numbers from the committed one on, and is dropped by the next that opens the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.replay.ring_file import RingFile
from fedmb.replay.ring_layout import storable
from fedmb.replay.row_store import RowStore

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

EMPTY = -1
STAYS = np.iinfo(np.int64).max
HIDDEN = {"number": "int64", "gone": "int64", "place": "int64", "key": "float64", "group": "int64"}


class UndoableRows:
    """Slots for rows; made by `in_memory` or `mapped`. Which row goes, somebody else decides.

    `number`, `gone`, `place`, `key` and `group` are live, `(capacity,)` each. The sets of moments from `horizon` to
    `appended`, the number of the next row, can be put together.
    """

    def __init__(self, store: RowStore, schema: Schema, about: str, file: RingFile | None = None) -> None:
        self.schema = schema
        self.path = file.path if file else None
        self._store = store
        self._file = file
        columns = [store.column(_hidden(name, about)) for name in HIDDEN]
        self.number, self.gone, self.place, self.key, self.group = columns
        self.appended, self.horizon = (file.last.appended, file.last.oldest) if file else (0, 0)
        if file is None or file.last.sequence == 0:
            self.number[:] = EMPTY
            self.commit(0, 0)
        self.drop_unfinished()

    @classmethod
    def in_memory(cls, schema: Schema, capacity: int, *, about: str = "") -> UndoableRows:
        """Empty slots that end with their process.

        Raises:
            SettingsError: capacity is below 1, there is no column, or a column is not of numbers.
        """
        checked = storable(schema, capacity)
        return cls(RowStore.in_memory(_with_hidden(checked, about), capacity), checked, about)

    @classmethod
    def mapped(cls, path: Path, schema: Schema, capacity: int, *, about: str = "") -> UndoableRows:
        """The slots in the file at `path`, which is made when it does not exist and owned until `close`.

        Args:
            path: the file.
            schema: columns of every row.
            capacity: slots.
            about: by what rows are chosen; a file that says something else is refused.

        Raises:
            AlreadyOwned: another live process has the file.
            SettingsError: capacity, schema or `about` differ from the file's or are out of range, or the disk is full.
            CorruptRing: the file cannot be trusted.
            VersionMismatch: the file has another format version.
        """
        checked = storable(schema, capacity)
        file = RingFile(path, _with_hidden(checked, about), capacity)
        return cls(RowStore(file.layout.rows, file.data), checked, about, file)

    def commit(self, appended: int, horizon: int) -> None:
        """Let these be the numbers that count, after everything stored so far."""
        self.appended, self.horizon = appended, horizon
        if self._file:
            self._file.commit(appended, horizon, b"")

    def drop_unfinished(self) -> None:
        """Forget the rows from `appended` on; those that went because of them are kept again."""
        self.number[self.number >= self.appended] = EMPTY
        self.gone[(self.number != EMPTY) & (self.gone >= self.appended)] = STAYS

    def give_up(self, slots: list[int], horizon: int) -> None:
        """Let these slots be overwritten; moments before `horizon` cannot be put together any more."""
        self.commit(self.appended, horizon)
        self.number[slots] = EMPTY

    def write(self, slots: NDArray[np.int64] | list[int], columns: Columns, rows: NDArray[np.int64]) -> None:
        """Copy these rows of `columns` into the slots."""
        for name in self.schema:
            self._store.column(name)[slots] = columns[name][rows]

    def gather(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Fresh columns of the rows in these slots, `(len(slots), ...)`."""
        rows = self._store.read(slots)
        return {name: rows[name] for name in self.schema}

    def kept(self) -> NDArray[np.int64]:
        """Slots of the rows that are kept now, by place."""
        slots = np.flatnonzero((self.number != EMPTY) & (self.gone == STAYS))
        return slots[np.lexsort((self.number[slots], self.place[slots]))]

    def departed(self) -> NDArray[np.int64]:
        """Slots of the rows that went and can come back, in the order in which they went."""
        slots = np.flatnonzero((self.number != EMPTY) & (self.gone != STAYS))
        return slots[np.argsort(self.gone[slots], kind="stable")]

    def flush(self) -> None:
        """Make the rows survive a power cut, where there is a file; blocks on the disk."""
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Give up the memory or the file; closing twice is fine, any other use afterwards is an error."""
        self.number = self.gone = self.place = self.key = self.group = np.empty(0, np.int64)
        self._store.close()
        if self._file:
            self._file.close()
            self._file = None


def _hidden(name: str, about: str) -> str:
    """Name of a hidden column, which no column of a task has."""
    return f"{name} of a remembered row{about}"


def _with_hidden(schema: dict[str, Column], about: str) -> dict[str, Column]:
    return {**schema, **{_hidden(name, about): Column(dtype) for name, dtype in HIDDEN.items()}}
