"""A table of rows to be drawn again: any sampler with any remover, limiter, limit of draws and reader.

    table = ReplayTable(schema, 1_000_000, sampler=Prioritized())
    ids = table.append(columns)
    sample = table.sample(256)
    table.reprioritize(sample.ids, priorities)

An id is never given to another row, so priorities that come late, for a row that is gone, change nothing.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedmb.errors import SettingsError
from fedmb.replay.given_rows import GivenRows, checked_priorities
from fedmb.replay.remover import Fifo
from fedmb.replay.row_appender import AppendRow, row_appender
from fedmb.replay.table_contents import ClosedTable, TableContents
from fedmb.replay.table_folder import TableFolder, store_of
from fedmb.replay.table_recovery import reopen
from fedmb.replay.table_rules import check_parts, check_together
from fedmb.replay.table_snapshot import state_of, state_with_rows, stopped, store_table
from fedmb.replay.table_statistics import TableStatistics, statistics_of
from fedmb.replay.uniform_sampler import Uniform
from fedmb.seeding import key_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns, Schema
    from fedmb.replay.limiter import RateLimiter
    from fedmb.replay.reader import Reader
    from fedmb.replay.remover import Remover
    from fedmb.replay.row_store import RowStore
    from fedmb.replay.sample import Sample
    from fedmb.replay.sampler import Sampler


class ReplayTable:
    """Rows that are appended, drawn, weighed and removed; used by any number of threads.

    Each call takes the table's lock once, for its whole batch. Randomness is the table's own, keyed by seed and name:
    the same calls give the same rows.

    Args:
        rows: columns of a row, an empty store for them, or a folder that keeps them (`ReplayTable.mapped`).
        capacity: rows in the table; left out where the store or the folder says it.
        sampler: which rows are drawn; uniformly, where left out.
        remover: which row goes for a new one; the oldest, where left out.
        limiter: how far inserts and samples may run ahead of each other; not at all limited, where left out.
        max_times_sampled: how often a row may be drawn before it goes; without end, where left out.
        reader: what a drawn row becomes; the row as it is, where left out.
        seed: the run's seed.
        name: tells tables of one run apart.

    Raises:
        SettingsError: a setting is out of range, a policy serves another table, or two do not go together.
    """

    append_row: AppendRow
    """Copy one row in: values in the order of the schema. Waits for a limiter as long as it takes.

    Raises:
        ShapeError: values do not follow the schema; nothing is appended.
    """

    def __init__(
        self,
        rows: RowStore | TableFolder | Schema,
        capacity: int | None = None,
        *,
        sampler: Sampler | None = None,
        remover: Remover | None = None,
        limiter: RateLimiter | None = None,
        max_times_sampled: int | None = None,
        reader: Reader | None = None,
        seed: int = 0,
        name: str = "table",
    ) -> None:
        check_parts(sampler=sampler, remover=remover, reader=reader, limiter=limiter)
        store = store_of(rows, capacity)
        sampler, remover = sampler or Uniform(), remover or Fifo()
        check_together(store.capacity, limiter, max_times_sampled, seed)
        # Twice as fast as a counter-based generator, which makes no difference to one that is kept.
        random = np.random.Generator(np.random.PCG64DXSM([seed, *key_words(name, "replay table")]))
        self._folder = rows if isinstance(rows, TableFolder) else None
        commits = None if self._folder is None else self._folder.commits
        self._contents = TableContents(store, sampler, remover, reader, max_times_sampled, random, commits)
        self._schema = dict(store.schema) if reader is None else reader.schema(store.schema)
        self._limiter = limiter
        self._lock = threading.Lock() if limiter is None else limiter.serve()
        self.name, self.capacity = name, store.capacity
        self._given = GivenRows(store.schema)
        self.append_row = self._append_one
        if self._contents.fifo is not None and limiter is None:
            self.append_row = row_appender(store, self._contents.fifo, commits, self._lock)
        if self._folder is not None:
            reopen(self._contents, limiter, self._folder.path)

    @classmethod
    def mapped(
        cls,
        folder: str | Path,
        schema: Schema,
        capacity: int,
        *,
        layout: Literal["auto", "rows", "columns"] = "auto",
        remover: Remover | None = None,
        max_times_sampled: int | None = None,
        **parts: Any,
    ) -> ReplayTable:
        """The table in a folder, which is made when it does not exist and owned until `close`.

        Every row whose `append` has returned is there again after the process was killed, whole, and with its id. All
        else is as the newest snapshot has it: see `table_recovery`. `parts` are sampler, limiter, reader, seed and
        name, as for any table; the remover is one of ours.

        Raises:
            AlreadyOwned: another live process has the folder.
            SettingsError: as for any table; or the folder was made for other settings, or the disk is full.
            CorruptRing, CorruptSnapshot: a file is damaged or gone, or all snapshots are.
            VersionMismatch: another fedmb wrote the folder.
        """
        in_order = type(remover or Fifo()) is Fifo and max_times_sampled is None
        place = TableFolder(folder, schema, capacity, layout=layout, in_order=in_order)
        with place.closed_on_error():
            return cls(place, remover=remover, max_times_sampled=max_times_sampled, **parts)

    def __len__(self) -> int:
        with self._lock:
            self._contents.settle()
            return len(self._contents.ids)

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of a row as it is stored."""
        return dict(self._contents.store.schema)

    @property
    def sample_schema(self) -> dict[str, Column]:
        """Columns of a sample, which its reader may make from those that are stored."""
        return dict(self._schema)

    def append(
        self, columns: Columns, *, priorities: NDArray[Any] | None = None, timeout: float | None = None
    ) -> NDArray[np.int64]:
        """Copy rows in, and answer an id for each, -1 where the remover did not keep it.

        Args:
            columns: of the schema, `(rows, ...)` each.
            priorities: of the rows, `(rows,)`; those that a sampler gives to new rows, where left out.
            timeout: seconds that the limiter may let this wait; None is without end, 0 does not wait.

        Raises:
            ShapeError: columns do not follow the schema, or there is not one priority a row.
            ValueError: a priority is negative, not finite or above 1e100.
            RateLimited: the limiter let nothing in before the time was over.
            SettingsError: so many rows can never pass the limiter at once. In all cases nothing is appended.
        """
        count = self._given.count(columns)
        given = None if priorities is None else checked_priorities(priorities, count)
        with self._lock:
            if not count:
                return np.empty(0, np.int64)
            if self._limiter is None:
                return self._contents.append(columns, count, given)[0]
            self._limiter.wait("insert", count, timeout)
            ids, removed = self._contents.append(columns, count, given)
            self._limiter.inserted(count, removed)
            return ids

    def _append_one(self, row: Sequence[Any]) -> None:
        self.append(self._given.columns(row))

    def sample(
        self, size: int, *, generator: np.random.Generator | None = None, timeout: float | None = None
    ) -> Sample:
        """Draw `size` rows, in fresh arrays.

        Args:
            size: rows.
            generator: to draw with instead of the table's own, which is left as it is.
            timeout: seconds that the limiter may let this wait; None is without end, 0 does not wait.

        Raises:
            NotEnoughData: there is nothing to draw, or not enough of it where rows may not come again.
            RateLimited: the limiter let nothing out before the time was over.
            SettingsError: so many rows can never pass the limiter at once.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a sample must have 1 row or more, got size={size}")
        contents = self._contents
        with self._lock:
            if self._limiter is not None:
                self._limiter.wait("sample", size, timeout)
            contents.settle()
            sample, removed = contents.sample(size, contents.random if generator is None else generator)
            if self._limiter is not None:
                self._limiter.sampled(size, removed)
        return sample

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[Any]) -> int:
        """Give rows new priorities, and answer how many rows that were; ids of rows that are gone are only counted.

        Args:
            ids: as `append` and `sample` gave them; of one that comes twice the last priority counts.
            priorities: one for each id, finite and 0 or more.

        Raises:
            ShapeError: there is not one priority an id.
            ValueError: a priority is negative, not finite or above 1e100; nothing is changed.
        """
        names = np.asarray(ids, np.int64)
        given = checked_priorities(priorities, len(names))
        with self._lock:
            self._contents.settle()
            return self._contents.reprioritize(names, given)

    def can_append(self, count: int = 1) -> bool:
        """Whether the limiter would let so many rows in now."""
        with self._lock:
            return self._limiter is None or self._limiter.can_insert(count)

    def can_sample(self, size: int = 1) -> bool:
        """Whether the limiter would let so many rows out now; without one, whether there is a row."""
        with self._lock:
            self._contents.settle()
            return len(self._contents.ids) > 0 if self._limiter is None else self._limiter.can_sample(size)

    def statistics(self) -> TableStatistics:
        """A frozen snapshot."""
        with self._lock:
            return statistics_of(self._contents, self._limiter)

    def state_dict(self) -> dict[str, Any]:
        """Everything but settings, in fresh arrays; the rows too."""
        with self._lock:
            return state_of(self._contents, self._limiter)

    def stopped(self) -> AbstractContextManager[dict[str, Any]]:
        """Everything but settings, the rows as pieces to be written once; nothing changes within this context."""
        return stopped(self._contents, self._limiter, self._lock)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the table of `state` stood, whose settings were the same.

        Raises:
            ShapeError: it was made with others.
            SettingsError: the table lies in a folder, whose rows go on by themselves.
        """
        if self._folder is not None:
            raise SettingsError(f"a table in a folder goes on by itself, got a state for {self._folder.path}; drop it")
        with self._lock:
            self._contents.load_state_dict(state)
            if self._limiter is not None:
                self._limiter.load_state_dict(state["limiter"])

    def snapshot(self, folder: str | Path | None = None) -> Path:
        """Store everything as the newest generation in a folder, and answer its file; the newest two are kept.

        A table in a folder makes its rows survive a power cut and stores all else there. Otherwise the rows are part of
        the snapshot, and the table is locked while they are written, though not while the disk takes them.

        Args:
            folder: where snapshots lie; left out, the table's own.

        Raises:
            OSError: the disk does not take it; earlier generations stay as they are.
            SettingsError: there is no folder.
        """
        return store_table(self._contents, self._limiter, self._lock, self._folder, folder)

    def restore(self, place: str | Path) -> None:
        """Go on exactly where a snapshot was made: the newest whole one in a folder, or the one in a file.

        Raises:
            CorruptSnapshot: there is none that can be trusted.
            ShapeError: it is of a table of other settings.
            SettingsError: there is none with rows, or the table lies in a folder and has gone on by itself.
        """
        self.load_state_dict(state_with_rows(Path(place)))

    def close(self) -> None:
        """Wake everybody who waits for the limiter, with `RateLimited`, and give up rows and files; twice is fine."""
        if self._limiter is not None:
            self._limiter.close()
        with self._lock:
            if not isinstance(self._contents, ClosedTable):
                (self._folder or self._contents.store).close()
            self._contents, self._folder = ClosedTable(), None
            self.append_row = self._append_one
