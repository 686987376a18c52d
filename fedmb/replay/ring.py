"""The newest rows of a stream, in memory or in a mapped file.

Rows are numbered from 0 as they are appended; row `r` lies in slot `r % capacity`. Numbers are never reused for other
rows: a resumed run goes back to the count its checkpoint names and appends the same rows again.

Rows of a few hundred bytes lie as whole structs, large ones by columns (`RowLayout`). Columns whose rows differ in
length are declared as `RaggedColumn`, appended and gathered as `fedmb.batch.collate.Ragged`. Beside its counters a ring
may carry a ledger, which says up to where the stream was read for its rows: both become valid in one commit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmb.errors import NotEnoughData
from fedmb.ledger import Ledger
from fedmb.replay.ring_commit import packed, unpacked
from fedmb.replay.ring_file import RingFile
from fedmb.replay.ring_rows import RingLayout, RingRows
from fedmb.replay.row_store import allocated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.replay.row_layout import Choice, Kind

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
    layout: Kind
    """Whether rows lie together, or columns."""
    row_bytes: int
    """Bytes of the values of one row; of a ragged one without its elements."""


class Ring:
    """The newest `capacity` rows; made by `Ring.in_memory` or `Ring.mapped`.

    One thread at a time; other processes read a mapped ring through `RingView`. Appending copies rows in, gathering
    copies rows out: no view of the ring leaves it.
    """

    def __init__(self, rows: RingRows, file: RingFile | None = None) -> None:
        self._rows: RingRows | None = rows
        self._layout = rows.layout
        self._file = file
        self._capacity = rows.layout.rows.capacity
        self._appended = file.last.appended if file else 0
        self._oldest = file.last.oldest if file else 0
        self._packed = file.last.ledger if file else b""
        self._ledger = unpacked(self._packed)

    @classmethod
    def in_memory(cls, schema: Schema, capacity: int, *, layout: Choice = "auto") -> Ring:
        """An empty ring that ends with its process.

        Raises:
            SettingsError: capacity is below 1, there is no column, or a column is not of numbers.
        """
        placed = RingLayout(schema, capacity, layout)
        return cls(RingRows(placed, allocated(placed.num_bytes)))

    @classmethod
    def mapped(cls, path: str | Path, schema: Schema, capacity: int, *, layout: Choice = "auto") -> Ring:
        """The ring in the file at `path`, which is made when it does not exist and owned until `close`.

        After the process was killed, rows of every finished append are there, and the ledger that came with the last
        of them; rows that an unfinished one was overwriting no longer count as kept. After a power cut only rows
        flushed before it can be trusted.

        Raises:
            AlreadyOwned: another live ring has the file.
            SettingsError: capacity or schema are out of range or differ from the file's, or the disk is full.
            CorruptRing: the file is not a ring, or is damaged.
            VersionMismatch: the file has another format version.
        """
        file = RingFile(Path(path), schema, capacity, layout)
        return cls(RingRows(file.layout, file.data), file)

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of every row."""
        return self._layout.schema

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

    @property
    def ledger(self) -> Ledger:
        """Up to where the stream was read for the rows appended so far; empty where nobody said so."""
        return self._ledger

    def append(self, columns: Mapping[str, Any], *, ledger: Ledger | None = None) -> range:
        """Copy rows in behind the newest and answer their numbers; of more rows than there is room the last ones stay.

        Args:
            columns: rows that follow the schema; ragged columns as `fedmb.batch.collate.Ragged`.
            ledger: up to where the stream was read with these rows; None leaves it as it was.

        Raises:
            ShapeError: columns do not follow the schema; nothing is appended.
            SettingsError: the ledger names more partitions than a commit has room for; nothing is appended.
            ValueError: the ring is closed.
        """
        rows = self._opened()
        count = rows.check(columns)
        coming = None if ledger is None else packed(ledger)
        kept = self.kept
        stop, oldest = kept.stop + count, rows.oldest(columns, count, kept)
        if count:
            if oldest != kept.start:
                # Give up what is about to be overwritten first: killed half-way, the ring would call torn rows kept.
                self._commit(kept.stop, min(oldest, kept.stop))
            rows.write(columns, count, kept, max(0, oldest - kept.stop))
        if ledger is not None and coming is not None:
            self._ledger, self._packed = ledger, coming
        if count or ledger is not None:
            self._commit(stop, oldest)
        return range(kept.stop, stop)

    def append_row(self, row: Sequence[Any]) -> int:
        """Copy one row in behind the newest and answer its number.

        Args:
            row: values in the order of the schema: arrays, lists or numbers, of its shapes exactly.

        Raises:
            ShapeError: a value is missing, of another shape, or of a dtype that cannot be cast; nothing is appended.
            ValueError: the ring is closed.
        """
        rows = self._opened()
        if self._layout.ragged:
            return self.append(rows.columns(row))[0]
        number, oldest = self._appended, self._oldest
        gone = number - self._capacity >= oldest
        if self._file is None:
            rows.store.write_row(number % self._capacity, row)
            self._appended, self._oldest = number + 1, oldest + gone
            return number
        if gone:
            self._commit(number, oldest + 1)
        try:
            rows.store.write_row(number % self._capacity, row)
        except Exception:
            self._commit(number, oldest)  # nothing was written: the row that was given up is whole
            raise
        self._commit(number + 1, oldest + gone)
        return number

    def gather(self, row_ids: NDArray[np.int64]) -> dict[str, Any]:
        """Fresh columns of the rows with these numbers, `(len(row_ids), ...)`, in the order asked; ragged ones too.

        Raises:
            NotEnoughData: a number lies outside `kept`.
            ValueError: the ring is closed.
        """
        rows = self._opened()
        check_kept(row_ids, self.kept)
        return rows.whole(rows.read(row_ids))

    def rewind(self, appended: int, *, needed: int | None = None, ledger: Ledger | None = None) -> int:
        """Go to where `appended` rows had been appended, and answer how many rows before it could not be restored.

        Rows from `appended` on are forgotten, to be appended again. Rows that those had overwritten cannot return:
        of the `needed` rows before `appended` (None means the whole capacity) the missing ones are counted, and
        logged as a warning. A ring that has run less far than `appended`, a new one in memory for instance, goes on
        numbering from there with nothing kept.

        Args:
            appended: rows.
            needed: rows.
            ledger: up to where the stream was read for those rows. None leaves the ledger of a ring that stands there
                already, and otherwise empties it, for it would speak of rows that are not there.

        Raises:
            ValueError: `appended` is negative, or the ring is closed.
        """
        self._opened()
        if appended < 0:
            raise ValueError(f"a ring can be rewound to 0 rows or more, got {appended}")
        if ledger is not None or appended != self._appended:
            self._packed = packed(ledger or Ledger())
            self._ledger = ledger or Ledger()
        is_reachable = self._oldest <= appended <= self._appended
        self._commit(appended, self._oldest if is_reachable else appended, rewound=True)
        wanted = min(appended, self._capacity if needed is None else needed)
        missing = max(0, wanted - len(self.kept))
        if missing:
            logger.warning("ring rewound appended=%d kept=%d missing=%d", appended, len(self.kept), missing)
        return missing

    def flush(self) -> None:
        """Make every row appended so far survive a power cut, where the ring has a file; blocks on the disk."""
        self._opened()
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Give up the file; closing twice is fine, any other use afterwards is an error."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
            if self._file:
                self._file.close()

    def statistics(self) -> RingStatistics:
        """A frozen snapshot."""
        path = self._file.path if self._file else None
        num_bytes = self._file.num_bytes if self._file else self._layout.num_bytes
        layout = self._layout.rows
        return RingStatistics(
            self._capacity, self._appended, len(self.kept), num_bytes, path, layout.kind, layout.row_bytes
        )

    def _commit(self, appended: int, oldest: int, *, rewound: bool = False) -> None:
        if self._file:
            self._file.commit(appended, oldest, self._packed, rewound=rewound)
        self._appended, self._oldest = appended, oldest

    def _opened(self) -> RingRows:
        if self._rows is None:
            raise ValueError("a ring must be open, this one was closed; make another")
        return self._rows


def check_kept(row_ids: NDArray[np.int64], kept: range) -> None:
    """Refuse numbers of rows that are not there.

    Raises:
        NotEnoughData: a number lies outside `kept`.
    """
    if len(row_ids) and (row_ids.min() < kept.start or row_ids.max() >= kept.stop):
        raise NotEnoughData(
            f"row numbers must be kept ones, {kept.start} to {kept.stop - 1}, got {row_ids.min()} to {row_ids.max()}; "
            "raise the capacity or ask for newer rows"
        )
