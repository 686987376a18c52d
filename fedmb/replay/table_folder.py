"""The folder of a table that outlives its process.

    rows                    the rows, as a mapped store
    commits                 which of them are whole: counts of rows, and by slot the id, number and draws of its row
    snapshot-000012-....    everything else: sampler, remover, limiter, generator

A row that is about to be overwritten is given up by a commit first, and an append ends with a commit. So whoever is
killed leaves whole every row whose append had returned, and half-written ones are known for what they are. After a
power cut only what was stored before the last snapshot or `flush` can be trusted.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptRing, SettingsError
from fedmb.replay.row_commits import RowCommits
from fedmb.replay.row_store import RowStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmb.batch.minibatch import Schema

BY_SLOT = {"code": Column("int64"), "number": Column("int64"), "times": Column("uint32")}


class TableFolder:
    """Rows and commits of one table, owned until `close`.

    Args:
        path: the folder, made when it does not exist.
        schema: columns of a row.
        capacity: rows.
        layout: of the store.
        in_order: whether commits alone say where every row lies, because the oldest always goes first.

    Raises:
        AlreadyOwned: another live process has it.
        SettingsError: it was made for other settings, or the disk cannot hold it.
        CorruptRing: a file is missing or damaged.
        VersionMismatch: a file has another format version.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        capacity: int,
        *,
        layout: Literal["auto", "rows", "columns"],
        in_order: bool,
    ) -> None:
        self.path = Path(path)
        rows, commits = self.path / "rows", self.path / "commits"
        if commits.exists() and commits.stat().st_size and not rows.exists():
            raise CorruptRing(f"{rows} must lie beside its commits, it is gone; delete {self.path} to begin anew")
        self.store = RowStore.mapped(rows, schema, capacity, layout=layout)
        try:
            self.commits = RowCommits(commits, {} if in_order else BY_SLOT, capacity)
        except BaseException:
            self.store.close()
            raise

    def flush(self) -> None:
        """Make every row survive a power cut; blocks on the disk."""
        self.store.flush()
        self.commits.flush()

    def close(self) -> None:
        """Give up the files."""
        try:
            self.store.close()
        finally:
            self.commits.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Give up the files where a table cannot be made of them."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def store_of(rows: RowStore | TableFolder | Schema, capacity: int | None) -> RowStore:
    """The store that a table is given, or a new one in memory.

    Raises:
        SettingsError: there is no capacity, or there are two.
    """
    rows = rows.store if isinstance(rows, TableFolder) else rows
    if isinstance(rows, RowStore):
        if capacity is not None and capacity != rows.capacity:
            raise SettingsError(f"a store says its capacity, {rows.capacity}, got {capacity} too; leave it out")
        return rows
    if capacity is None:
        raise SettingsError("a table needs a capacity, got none; say how many rows it may hold", key="capacity")
    return RowStore.in_memory(rows, capacity)
