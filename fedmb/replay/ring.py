"""The newest rows of a stream in fixed columns, in memory or in a mapped file.

Rows are numbered from 0 as they are appended; row `r` lies in slot `r % capacity` of every column. Numbers are never
reused for other rows: a resumed run goes back to the count its checkpoint names and appends the same rows again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Columns, Schema, check_columns
from fedmb.errors import NotEnoughData
from fedmb.replay.ring_file import RingFile
from fedmb.replay.ring_layout import storable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """A ring at one moment."""

    capacity: int
    """Rows it can hold."""
    appended: int
    """Rows ever appended, less those a rewind took back."""
    kept: int
    """Rows that can be gathered."""
    num_bytes: int
    """Memory or disk it takes."""
    path: Path | None
    """Its file; None in memory."""


class Ring:
    """Fixed columns for the newest `capacity` rows; made by `Ring.in_memory` or `Ring.mapped`.

    One thread at a time. Appending copies rows in, gathering copies rows out: no view of the ring leaves it.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], schema: Schema, file: RingFile | None = None) -> None:
        self._columns = columns
        self._schema = schema
        self._file = file
        self._capacity = len(next(iter(columns.values())))
        self._num_bytes = file.num_bytes if file else sum(array.nbytes for array in columns.values())
        self._appended = file.last.appended if file else 0
        self._oldest = file.last.oldest if file else 0
        self._is_closed = False

    @classmethod
    def in_memory(cls, schema: Schema, capacity: int) -> Ring:
        """An empty ring that ends with its process.

        Raises:
            SettingsError: capacity is below 1, there is no column, or a column is not of numbers.
        """
        checked = storable(schema, capacity)
        return cls({name: np.zeros((capacity, *c.shape), c.dtype) for name, c in checked.items()}, checked)

    @classmethod
    def mapped(cls, path: str | Path, schema: Schema, capacity: int) -> Ring:
        """The ring in the file at `path`, which is made when it does not exist and owned until `close`.

        After the process was killed, rows of every finished append are there; rows that an unfinished one was
        overwriting no longer count as kept. After a power cut only rows flushed before it can be trusted.

        Raises:
            AlreadyOwned: another live ring has the file.
            SettingsError: capacity or schema are out of range or differ from the file's, or the disk is full.
            CorruptRing: the file is not a ring, or is damaged.
            VersionMismatch: the file has another format version.
        """
        checked = storable(schema, capacity)
        file = RingFile(Path(path), checked, capacity)
        return cls(file.columns, checked, file)

    @property
    def schema(self) -> Schema:
        """Columns of every row."""
        return self._schema

    @property
    def capacity(self) -> int:
        """Rows the ring can hold."""
        return self._capacity

    @property
    def appended(self) -> int:
        """Number of the next row: rows ever appended, less those a rewind took back."""
        return self._appended

    @property
    def kept(self) -> range:
        """Numbers of the rows that can be gathered."""
        return range(self._oldest, self._appended)

    def append(self, columns: Columns) -> range:
        """Copy rows in behind the newest and answer their numbers; of more than `capacity` rows the last ones stay.

        Raises:
            ShapeError: columns do not follow the schema; nothing is appended.
            ValueError: the ring is closed.
        """
        self._check_open()
        count = check_columns(columns, self._schema)
        first, stop = self._appended, self._appended + count
        if count == 0:
            return range(first, stop)
        oldest = max(self._oldest, stop - self._capacity)
        if oldest != self._oldest:
            # Give up what is about to be overwritten first: killed half-way, the ring would call torn rows kept.
            self._commit(first, min(oldest, first))
        stored = min(count, self._capacity)
        slot = (stop - stored) % self._capacity
        head = min(stored, self._capacity - slot)
        for name, target in self._columns.items():
            rows = columns[name][count - stored :]
            target[slot : slot + head] = rows[:head]
            target[: stored - head] = rows[head:]
        self._commit(stop, oldest)
        return range(first, stop)

    def gather(self, row_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Fresh columns of the rows with these numbers, `(len(row_ids), ...)`, in the order asked.

        Raises:
            NotEnoughData: a number lies outside `kept`.
            ValueError: the ring is closed.
        """
        self._check_open()
        if len(row_ids) and (row_ids.min() < self._oldest or row_ids.max() >= self._appended):
            raise NotEnoughData(
                f"row numbers must be kept ones, {self._oldest} to {self._appended - 1}, got {row_ids.min()} to "
                f"{row_ids.max()}; raise the capacity or ask for newer rows"
            )
        slots = row_ids % self._capacity
        return {name: np.take(array, slots, axis=0) for name, array in self._columns.items()}

    def rewind(self, appended: int, *, needed: int | None = None) -> int:
        """Go to where `appended` rows had been appended, and answer how many rows before it could not be restored.

        Rows from `appended` on are forgotten, to be appended again. Rows that those had overwritten cannot return:
        of the `needed` rows before `appended` (None means the whole capacity) the missing ones are counted, and
        logged as a warning. A ring that has run less far than `appended`, a new one in memory for instance, goes on
        numbering from there with nothing kept.

        Raises:
            ValueError: `appended` is negative, or the ring is closed.
        """
        self._check_open()
        if appended < 0:
            raise ValueError(f"a ring can be rewound to 0 rows or more, got {appended}")
        is_reachable = self._oldest <= appended <= self._appended
        self._commit(appended, self._oldest if is_reachable else appended)
        wanted = min(appended, self._capacity if needed is None else needed)
        missing = max(0, wanted - len(self.kept))
        if missing:
            logger.warning("ring rewound appended=%d kept=%d missing=%d", appended, len(self.kept), missing)
        return missing

    def flush(self) -> None:
        """Make every row appended so far survive a power cut, where the ring has a file; blocks on the disk."""
        self._check_open()
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Give up the file; closing twice is fine, any other use afterwards is an error."""
        if not self._is_closed and self._file:
            self._file.close()
        self._columns = {}
        self._is_closed = True

    def statistics(self) -> RingStatistics:
        """A frozen snapshot."""
        path = self._file.path if self._file else None
        return RingStatistics(self._capacity, self._appended, len(self.kept), self._num_bytes, path)

    def _commit(self, appended: int, oldest: int) -> None:
        if self._file:
            self._file.commit(appended, oldest)
        self._appended, self._oldest = appended, oldest

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("a ring must be open to be used, this one was closed; make another")
