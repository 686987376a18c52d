"""A replay table as a service has it: inserts that are kept once, snapshots on the disk, figures for whoever asks."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import RateLimited
from fedmb.replay.row_block import RowBlock
from fedmb.replay.table_figures import age_figures, priority_figures
from fedmb.replay.writers import Writers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.replay_table import ReplayTable
    from fedmb.replay.sample import Sample
    from fedmb.replay.sampler import Sampler


class ServedTable:
    """A table that a service's threads share.

    Args:
        table: closed by whoever made it.
        folder: where its snapshots go; None for its own folder, or for nowhere where it is in memory.
        has_folder: whether it has one of its own.
        in_order: whether the oldest row always goes first, so that ages are known.
        sampler: the table's, looked at for figures.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        table: ReplayTable,
        folder: Path | None = None,
        *,
        has_folder: bool = False,
        in_order: bool = False,
        sampler: Sampler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = table
        self.rows = RowBlock(table.schema)
        self.schema: Schema = self.rows.schema
        self.drawn_schema: Schema = table.sample_schema
        self.capacity = table.capacity
        self._folder, self._has_folder, self._in_order = folder, has_folder, in_order
        self._sampler, self._clock = sampler, clock
        self._snapshots = threading.Lock()
        self._last_snapshot: float | None = None
        self._snapshot_seconds = 0.0
        self._writers = Writers()

    def __len__(self) -> int:
        return len(self.table)

    def insert(
        self,
        writer: str,
        sequence: int,
        block: NDArray[np.void],
        priorities: NDArray[np.float64] | None,
        *,
        timeout: float,
    ) -> NDArray[np.int64] | None:
        """Keep the rows of a writer's insert and answer their ids; None where the limiter let none in for so long.

        An insert that was taken before is not taken again. Rows of a table in a folder survive the end of this
        process once this returns.

        Raises:
            FedmbError, ValueError: what `ReplayTable.append` raises.
        """
        with self._writers.turn(writer) as turn:
            if (known := turn.known(sequence, len(block))) is not None:
                return known
            try:
                ids = self.table.append(self.rows.columns(block), priorities=priorities, timeout=timeout)
            except RateLimited:
                return None
            turn.taken(sequence, ids)
            return ids

    def draw(self, size: int, *, timeout: float) -> Sample:
        """A sample.

        Raises:
            FedmbError, ValueError: what `ReplayTable.sample` raises.
        """
        return self.table.sample(size, timeout=timeout)

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[np.float64]) -> int:
        """Give rows new priorities; how many rows that were.

        Raises:
            FedmbError, ValueError: what `ReplayTable.reprioritize` raises.
        """
        return self.table.reprioritize(ids, priorities)

    def statistics(self) -> dict[str, Any]:
        """The table's statistics as JSON values."""
        return asdict(self.table.statistics())

    def figures(self) -> dict[str, Any]:
        """Statistics, ages, priorities and the age of the last snapshot, as JSON values."""
        found = self.statistics()
        numbers = np.arange(found["appended"] - found["rows"], found["appended"])
        return {
            **found,
            "ages": age_figures(numbers, found["appended"]) if self._in_order else {},
            "priorities": {} if self._sampler is None else priority_figures(self._sampler.state_dict()),
            "snapshot_age_seconds": self.snapshot_age,
        }

    def snapshot(self) -> dict[str, Any]:
        """Store the table; where, and the seconds that this took.

        Raises:
            SettingsError: there is no folder for it.
            OSError: the disk does not take it; what was stored before is whole.
        """
        with self._snapshots:
            began = self._clock()
            path = self.table.snapshot(self._folder)
            self._last_snapshot = self._clock()
            self._snapshot_seconds = self._last_snapshot - began
            return {"path": str(path), "seconds": self._snapshot_seconds}

    @property
    def is_stored(self) -> bool:
        """Whether it has a place for snapshots."""
        return self._has_folder or self._folder is not None

    @property
    def snapshot_age(self) -> float | None:
        """Seconds since the last snapshot of this process; None before it."""
        return None if self._last_snapshot is None else self._clock() - self._last_snapshot
