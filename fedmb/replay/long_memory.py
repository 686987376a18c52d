"""A memory of everything that a stream has brought: a uniform sample of all its rows, or one with level classes.

Every row gets a random key, a function of (seed, client, number of the row), and `LevelSample` keeps those with the
smallest keys:

    one group     of all rows, a uniform sample: a reservoir
    by class      classes of equal shares, rare ones whole; of each class a uniform sample
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import MiniBatch, check_columns
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.level_sample import LevelSample
from fedmb.replay.undoable_rows import UndoableRows
from fedmb.replay.uniform import capacity_for
from fedmb.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

log = logging.getLogger(__name__)

MOST_GROUPS = 1024  # a slot is set aside for each: it holds the threshold of a group that has long lost no row
BLOCK = 4096  # rows whose keys are drawn together; making a generator costs as much as some thousand draws


@dataclass(frozen=True, slots=True)
class LongMemoryStatistics:
    """A memory at one moment."""

    window: int
    """Rows it keeps at most."""
    appended: int
    """Rows shown to it, less those a rewind took back."""
    kept: int
    """Rows that can be drawn."""
    horizon: int
    """The number of rows that it can at most go back to without loss."""
    classes: dict[int, int]
    """Kept rows of each class; all of class 0 where no label decides."""


class LongMemory:
    """Keeps at most `window` of all rows ever appended; made by `in_memory` or `mapped`. A `Remembered`.

    Draws are uniform over the kept rows, with replacement, and depend on (seed, client, number of the draw) and on the
    rows alone. It can go back by `window` rows or more, to the bit, also in another process.

    Args:
        rows: where they lie.
        window: rows that are kept.
        label: column of integers whose values are kept in level shares; None keeps a uniform sample of all rows. Of
            more than 1024 labels, or more than rows, some share a share.
        seed: the run's seed.
        client: name or number of this site.

    Raises:
        SettingsError: window or seed are out of range, or the label is no column of single integers.
    """

    def __init__(
        self, rows: UndoableRows, window: int, *, label: str | None = None, seed: int, client: str | int
    ) -> None:
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        self._rows = rows
        self._window = window
        self._label = label
        self._groups = _num_groups(rows.schema, window, label)
        self._seed = int(seed)
        self._client = client if isinstance(client, str) else int(client)  # NumPy integers print differently
        self._block: tuple[int, NDArray[np.float64]] = (-1, np.empty(0))
        self._sample = LevelSample(rows, window, self._groups)

    @classmethod
    def in_memory(
        cls, schema: Schema, window: int, *, label: str | None = None, seed: int, client: str | int
    ) -> LongMemory:
        """An empty memory that ends with its process.

        Raises:
            SettingsError: as the class, or a column is not of numbers.
        """
        rows = UndoableRows.in_memory(schema, _num_slots(schema, window, label))
        return cls(rows, window, label=label, seed=seed, client=client)

    @classmethod
    def mapped(
        cls, path: str | Path, schema: Schema, window: int, *, label: str | None = None, seed: int, client: str | int
    ) -> LongMemory:
        """The memory in the file at `path`, which is made when it does not exist and owned until `close`.

        After the process was killed it is what it was behind the last finished append; after a power cut only rows
        flushed before it can be trusted.

        Raises:
            AlreadyOwned: another live process has the file.
            SettingsError: as `in_memory`, the file was made for other settings, or the disk is full.
            CorruptRing: the file cannot be trusted.
            VersionMismatch: the file has another format version.
        """
        about = "" if label is None else f", level by {label}"
        rows = UndoableRows.mapped(Path(path), schema, _num_slots(schema, window, label), about=about)
        try:
            return cls(rows, window, label=label, seed=seed, client=client)
        except BaseException:
            rows.close()
            raise

    def __len__(self) -> int:
        """Rows that can be drawn now."""
        return len(self._sample)

    @property
    def schema(self) -> Schema:
        """Columns of every row."""
        return self._rows.schema

    @property
    def appended(self) -> int:
        """Rows shown to the memory so far, forgotten ones included."""
        return self._rows.appended

    def append(self, columns: Columns) -> range:
        """Show rows to the memory and answer their numbers; it copies those that it chooses.

        Raises:
            ShapeError: columns do not follow the schema; nothing is appended.
        """
        count = check_columns(columns, self._rows.schema)
        first = self._rows.appended
        for start in range(0, count, self._window):  # more rows than that might find too few slots
            few = {name: array[start : start + self._window] for name, array in columns.items()}
            self._append(few if count > self._window else columns, min(self._window, count - start))
        return range(first, first + count)

    def sample(self, size: int, draw: int) -> MiniBatch:
        """`size` of the kept rows in fresh arrays, without a span; the same number gives the same rows of one set.

        Raises:
            NotEnoughData: no row is kept.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a draw must ask for 1 row or more, got {size}")
        if not len(self):
            raise NotEnoughData("a draw needs a row that is remembered, got none; append some first")
        places = generator(self._seed, self._client, draw, "replay").integers(0, len(self), size, np.int64)
        return MiniBatch(self._rows.gather(self._sample.slots(places)), origins={"replay": size})

    def rewind(self, appended: int) -> int:
        """Go to where `appended` rows had been shown; answers how many rows of that moment are lost for good.

        Moments before the horizon, and those that this memory has not come to, cannot be put together. Then it goes
        on from that number with what it has from before it, which it logs: still a sample, but not the same one.

        Raises:
            ValueError: `appended` is negative.
        """
        rows = self._rows
        if appended < 0:
            raise ValueError(f"a memory can be rewound to 0 rows or more, got {appended}")
        if appended == rows.appended:
            return 0
        is_exact = appended == 0 or rows.horizon <= appended <= rows.appended
        if not is_exact and appended < rows.horizon:
            self._sample.go_back_beyond_the_horizon(appended)
        rows.commit(appended, rows.horizon if is_exact and appended else appended)
        rows.drop_unfinished()
        self._sample.read()
        if is_exact:
            return 0
        missing = max(1, min(appended, self._window) - len(self))
        log.warning("memory rewound beyond its reach appended=%d kept=%d missing=%d", appended, len(self), missing)
        return missing

    def statistics(self) -> LongMemoryStatistics:
        """A frozen snapshot."""
        rows, counts = self._rows, self._sample.counts
        classes = {int(group): int(counts[group]) for group in np.flatnonzero(counts)}
        return LongMemoryStatistics(self._window, rows.appended, len(self), rows.horizon, classes)

    def flush(self) -> None:
        """Make the rows survive a power cut, where they lie in a file."""
        self._rows.flush()

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def _append(self, columns: Columns, count: int) -> None:
        rows = self._rows
        first, stop = rows.appended, rows.appended + count
        groups = np.zeros(count, np.int64) if self._label is None else columns[self._label].astype(np.int64)
        slots, chosen = self._sample.choose(first, self._keys(first, stop), groups % self._groups)
        if slots:
            rows.write(slots, columns, chosen)
        rows.commit(stop, rows.horizon)

    def _keys(self, first: int, stop: int) -> NDArray[np.float64]:
        """Random keys of these rows, from 0 to below 1."""
        parts = []
        for block in range(first // BLOCK, -(-stop // BLOCK)):
            if block != self._block[0]:
                self._block = block, generator(self._seed, self._client, block, "memory").random(BLOCK)
            parts.append(self._block[1][max(0, first - block * BLOCK) : stop - block * BLOCK])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _num_groups(schema: Schema, window: int, label: str | None) -> int:
    if window < 1:
        raise SettingsError(f"a memory's window must be 1 row or more, got {window}", key="window")
    if label is None:
        return 1
    column = schema.get(label)
    if column is None or column.shape or np.dtype(column.dtype).kind not in "iu":
        raise SettingsError(
            f"classes are kept level by a column of single integers, got {label!r} of {dict(schema)}; name such a one"
        )
    return min(MOST_GROUPS, window)


def _num_slots(schema: Schema, window: int, label: str | None) -> int:
    """Slots for the kept rows, for as many that may come back, and for the threshold of each group."""
    return capacity_for(window) + _num_groups(schema, window, label)
