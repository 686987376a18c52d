"""Several tables with names: rows go into one or more of them, and a sample may hold rows of several.

    buffer = ReplayBuffer({"newest": ReplayTable(...), "ever": ReplayTable(...)}, weights={"newest": 3, "ever": 1})
    buffer.append(columns)                        # into every table
    sample = buffer.sample(256)                   # 192 of the newest, 64 of all times
    buffer.reprioritize(sample.ids, priorities)   # each in the table that it came from

Each table keeps its rows itself: a row in two tables lies in memory twice, and may go from one before the other. A
row's id in a buffer is its id in its table, times the number of tables, plus the table's place among them.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import check_columns
from fedmb.batch.mixture import apportioned
from fedmb.errors import NotEnoughData, RateLimited, SettingsError, ShapeError
from fedmb.replay.given_rows import checked_priorities
from fedmb.replay.row_ids import NOT_KEPT
from fedmb.replay.sample import MixedSample
from fedmb.replay.snapshot import Unfinished
from fedmb.replay.table_snapshot import state_with_rows
from fedmb.seeding import key_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns
    from fedmb.replay.replay_table import ReplayTable
    from fedmb.replay.sample import Sample
    from fedmb.replay.table_statistics import TableStatistics


class ReplayBuffer:
    """Tables by name; used by any number of threads.

    Args:
        tables: by name; closed with the buffer. Those that are drawn from together give the same columns.
        weights: share of each table in a sample; in proportion to the rows they hold at that time, where left out.
        seed: the run's seed.
        name: tells buffers of one run apart.

    Raises:
        SettingsError: there is no table, a weight is missing, names none or is not finite and 0 or more.
    """

    def __init__(
        self,
        tables: Mapping[str, ReplayTable],
        *,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        name: str = "buffer",
    ) -> None:
        if not tables:
            raise SettingsError("a buffer needs at least one table, got none; name them in tables")
        self.name = name
        self._tables = dict(tables)
        self.tables = tuple(tables)
        self._places = {name: place for place, name in enumerate(self._tables)}
        self._weights = None if weights is None else self._checked(weights)
        self._random = np.random.Generator(np.random.PCG64DXSM([seed, *key_words(name, "replay buffer")]))
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> ReplayTable:
        """The table of this name."""
        return self._tables[name]

    def __len__(self) -> int:
        """Rows in all tables together."""
        return sum(map(len, self._tables.values()))

    @property
    def sample_schema(self) -> dict[str, Column]:
        """Columns of a sample from all tables.

        Raises:
            ShapeError: tables give different columns.
        """
        return self._common(self.tables)

    def append(
        self,
        columns: Columns,
        *,
        tables: Sequence[str] | None = None,
        priorities: NDArray[Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Copy rows into tables, one after the other, and answer their ids by table, -1 where one was not kept.

        Args:
            columns: all columns of all these tables, `(rows, ...)` each; a table takes its own.
            tables: names; all, where left out.
            priorities: of the rows in each of the tables.
            timeout: seconds that limiters may let this wait, all together; None is without end.

        Raises:
            ShapeError: a column is missing, unknown to all tables or of another form; nothing is appended.
            RateLimited: a limiter let nothing in; its note says which tables have the rows.
            SettingsError: there is no such table.
        """
        names = self._named(tables)
        parts = {name: self._part(name, columns) for name in names}
        if unknown := columns.keys() - {column for part in parts.values() for column in part}:
            raise ShapeError(f"columns must be those of {names}, got {sorted(unknown)} too; drop them")
        deadline = None if timeout is None else time.monotonic() + timeout
        ids: dict[str, NDArray[np.int64]] = {}
        for name, part in parts.items():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                own = self._tables[name].append(part, priorities=priorities, timeout=left)
            except RateLimited as error:
                error.add_note(f"table {name!r} refused; the rows are in {sorted(ids) or 'no table'}")
                raise
            ids[name] = self._renamed(name, own)
        return ids

    def sample(
        self,
        size: int,
        *,
        weights: Mapping[str, float] | None = None,
        generator: np.random.Generator | None = None,
        timeout: float | None = None,
    ) -> MixedSample:
        """Draw `size` rows from several tables, in fresh arrays.

        How many come from each table is its share of `size`, rounded up or down so that it is right on average.

        Args:
            size: rows.
            weights: of the tables to draw from, instead of the buffer's.
            generator: to draw with instead of the generators of buffer and tables.
            timeout: seconds that limiters may let this wait, all together; None is without end.

        Raises:
            NotEnoughData, RateLimited: of one table; rows drawn from tables before it count as drawn.
            ShapeError: the tables give different columns.
            SettingsError, ValueError: a weight names no table or is out of range, or `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a sample must have 1 row or more, got size={size}")
        shares = self._shares(weights)
        self._common(tuple(shares))
        with self._lock:
            counts = apportioned(np.array(list(shares.values())), size, generator or self._random)
        deadline = None if timeout is None else time.monotonic() + timeout
        parts: dict[str, Sample] = {}
        for name, count in zip(shares, counts.tolist(), strict=True):
            if count:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                parts[name] = self._tables[name].sample(count, generator=generator, timeout=left)
        return self._mixed(parts)

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[Any]) -> int:
        """Give rows new priorities, each in its table, and answer how many rows that were.

        Raises:
            ShapeError: there is not one priority an id.
            ValueError: a priority is negative, not finite or above 1e100; nothing is changed.
        """
        names = np.asarray(ids, np.int64)
        given = checked_priorities(priorities, len(names))
        places = np.where(names >= 0, names % len(self._tables), -1)
        own = names // len(self._tables)
        tables = self._tables.values()
        return sum(
            table.reprioritize(own[places == place], given[places == place]) for place, table in enumerate(tables)
        )

    def ids_in(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of these ids of the buffer, those of rows in one table, as the table itself names them."""
        own: NDArray[np.int64] = ids[(ids >= 0) & (ids % len(self._tables) == self._places[name])]
        return own // len(self._tables)

    def statistics(self) -> dict[str, TableStatistics]:
        """A frozen snapshot of each table."""
        return {name: table.statistics() for name, table in self._tables.items()}

    def state_dict(self) -> dict[str, Any]:
        """The generator and every table."""
        with self._lock:
            random = self._random.bit_generator.state
        return {"random": random, "tables": {name: table.state_dict() for name, table in self._tables.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the buffer of `state` stood.

        Raises:
            ShapeError: it had other tables.
        """
        if state["tables"].keys() != self._tables.keys():
            raise ShapeError(f"a state must be of tables {self.tables}, got {tuple(state['tables'])}; make them alike")
        for name, table in self._tables.items():
            table.load_state_dict(state["tables"][name])
        with self._lock:
            self._random.bit_generator.state = state["random"]

    def snapshot(self, folder: str | Path) -> Path:
        """Store every table, all at one moment, as the newest generation in a folder, and answer its file.

        All tables are locked while their rows are written. Only a buffer of tables in memory can be restored.

        Raises:
            OSError: the disk does not take it; earlier generations stay as they are.
        """
        with ExitStack() as stack:
            states = {name: stack.enter_context(table.stopped()) for name, table in self._tables.items()}
            with self._lock:
                random = self._random.bit_generator.state
            unfinished = Unfinished(Path(folder), {"random": random, "tables": states})
        return unfinished.finish()

    def restore(self, place: str | Path) -> None:
        """Go on exactly where a snapshot was made: the newest whole one in a folder, or the one in a file.

        Raises:
            CorruptSnapshot, ShapeError: there is none that can be trusted, or it is of other tables.
            SettingsError: there is none, or a table lies in a folder and has gone on by itself.
        """
        self.load_state_dict(state_with_rows(Path(place), "tables"))

    def close(self) -> None:
        """Close every table."""
        for table in self._tables.values():
            table.close()

    def _checked(self, weights: Mapping[str, float]) -> dict[str, float]:
        if unknown := sorted(weights.keys() - self._tables.keys()):
            raise SettingsError(f"weights must name tables of {self.tables}, got {unknown}", key="weights")
        wrong = {name: weight for name, weight in weights.items() if not 0 <= weight < math.inf}
        if wrong or not sum(weights.values()) > 0:
            raise SettingsError(
                f"weights must be finite, 0 or more, and one above 0, got {wrong or dict(weights)}", key="weights"
            )
        return {name: float(weights[name]) for name in self._tables if weights.get(name)}

    def _shares(self, weights: Mapping[str, float] | None) -> dict[str, float]:
        """Share of each table to draw from."""
        found = self._weights if weights is None else self._checked(weights)
        if found is None:
            found = {name: float(rows) for name, table in self._tables.items() if (rows := len(table))}
        if not found:
            raise NotEnoughData(f"one of the tables {self.tables} must hold a row to draw, got none; append some first")
        return {name: weight / sum(found.values()) for name, weight in found.items()}

    def _named(self, names: Sequence[str] | None) -> tuple[str, ...]:
        if names is None:
            return self.tables
        if unknown := sorted(set(names) - self._tables.keys()):
            raise SettingsError(f"tables must be of {self.tables}, got {unknown}", key="tables")
        return tuple(dict.fromkeys(names))

    def _part(self, name: str, columns: Columns) -> dict[str, NDArray[Any]]:
        """Those columns that a table stores."""
        schema = self._tables[name].schema
        part = {column: columns[column] for column in schema if column in columns}
        check_columns(part, schema)
        return part

    def _common(self, names: Sequence[str]) -> dict[str, Column]:
        """Columns of samples of these tables."""
        first = self._tables[names[0]].sample_schema
        for name in names[1:]:
            if (other := self._tables[name].sample_schema) != first:
                raise ShapeError(
                    f"tables that are drawn from together must give the same columns, {names[0]!r} gives {first} and "
                    f"{name!r} {other}; draw from one of them, or give weights to those that agree"
                )
        return first

    def _renamed(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(ids == NOT_KEPT, NOT_KEPT, ids * len(self._tables) + self._places[name])

    def _mixed(self, parts: Mapping[str, Sample]) -> MixedSample:
        places, stop = {}, 0
        for name, part in parts.items():
            places[name] = slice(stop, stop := stop + len(part))
        weights = None
        if any(part.weights is not None for part in parts.values()):
            given = [
                np.ones(len(part), np.float32) if part.weights is None else part.weights for part in parts.values()
            ]
            weights = np.concatenate(given)
        names = next(iter(parts.values())).columns
        columns = {name: np.concatenate([part.columns[name] for part in parts.values()]) for name in names}
        ids = np.concatenate([self._renamed(name, part.ids) for name, part in parts.items()])
        return MixedSample(columns, ids, weights, places)
