"""The rows of a ring over one piece of memory: a store of rows, and behind it the elements of each ragged column.

Row `r` lies in slot `r % capacity`. Of a ragged column the row has the number of its first element and its length, in
two columns of the ring's own.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.collate import Ragged
from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.ragged import RaggedColumn, RaggedStore
from fedmb.replay.ring_layout import ALIGNMENT, named, rounded, row_bytes, storable
from fedmb.replay.row_layout import RowLayout
from fedmb.replay.row_store import RowStore
from fedmb.replay.row_writer import checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.row_layout import Choice

START, LENGTH = "{}:start", "{}:length"  # of a row's elements


class RingLayout:
    """Where the rows and elements of a ring lie.

    Args:
        schema: columns of a row; ragged ones are `RaggedColumn`.
        capacity: rows.
        layout: as `RowLayout`.

    Raises:
        SettingsError: capacity is below 1, there is no column, a column is not of numbers, or names clash.
    """

    def __init__(self, schema: Schema, capacity: int, layout: Choice = "auto") -> None:
        self.ragged = {name: column for name, column in schema.items() if isinstance(column, RaggedColumn)}
        own = {form.format(name): Column("int64") for name in self.ragged for form in (START, LENGTH)}
        plain = {name: column for name, column in schema.items() if name not in self.ragged}
        if clash := own.keys() & plain.keys():
            raise SettingsError(f"a ring keeps columns of its own named {sorted(clash)}; rename yours")
        self.rows = RowLayout({**plain, **own}, capacity, layout)
        self.schema: dict[str, Column] = {name: self.ragged.get(name) or self.rows.schema[name] for name in schema}
        self.plain = {name: self.rows.schema[name] for name in plain}
        self._starts, self.num_bytes = {}, self.rows.num_bytes
        for name, column in sorted(self.ragged.items()):
            element = storable({name: column.element}, column.max_items)
            self._starts[name] = rounded(self.num_bytes, ALIGNMENT)
            self.num_bytes = self._starts[name] + column.max_items * row_bytes(element)

    def description(self) -> dict[str, object]:
        """What a file says of its rows, as JSON values."""
        ragged = {
            name: [column.dtype, list(column.element.shape), column.max_items]
            for name, column in sorted(self.ragged.items())
        }
        plain = {"capacity": self.rows.capacity, "columns": named(self.plain), "layout": self.rows.kind}
        return {**plain, "ragged": ragged} if ragged else plain

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> RingLayout:
        """The layout that `description()` told of; the schema is in the order of its names."""
        schema = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in description["columns"].items()}
        for name, (dtype, shape, max_items) in description.get("ragged", {}).items():
            schema[name] = RaggedColumn(dtype, max_items, tuple(shape))
        return cls(dict(sorted(schema.items())), description["capacity"], description["layout"])

    def elements(self, data: NDArray[np.uint8]) -> dict[str, RaggedStore]:
        """The rings of elements in `data`, by column."""
        return {
            name: RaggedStore(
                column,
                np.ndarray((column.max_items, *column.element.shape), column.dtype, data.data, self._starts[name]),
            )
            for name, column in self.ragged.items()
        }


class _Starts:
    """Numbers of the first elements of the kept rows, as a sequence to search in: few of them are looked at."""

    def __init__(self, column: NDArray[np.int64], kept: range) -> None:
        self._column = column
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> int:
        return int(self._column[self._kept[index] % len(self._column)])


class RingRows:
    """Rows by number; which of them are kept is the ring's business.

    Args:
        layout: where they lie.
        data: their memory, `layout.num_bytes` bytes or more.
    """

    def __init__(self, layout: RingLayout, data: NDArray[np.uint8]) -> None:
        self.layout = layout
        self.store = RowStore(layout.rows, data)
        self._elements = layout.elements(data)
        self._capacity = layout.rows.capacity

    def check(self, columns: Mapping[str, Any]) -> int:
        """Number of rows in `columns`, which must follow the schema.

        Raises:
            ShapeError: they do not.
        """
        if not self._elements:
            return check_columns(columns, self.layout.plain)
        if columns.keys() != self.layout.schema.keys():
            raise ShapeError(
                f"columns must be {sorted(self.layout.schema)}, got {sorted(columns)}; rename or drop them"
            )
        lengths = {len(elements.checked(name, columns[name])) for name, elements in self._elements.items()}
        if self.layout.plain:
            lengths.add(check_columns({name: columns[name] for name in self.layout.plain}, self.layout.plain))
        if len(lengths) > 1:
            raise ShapeError(f"columns must be of equal length, got lengths {sorted(lengths)}")
        return lengths.pop()

    def oldest(self, columns: Mapping[str, Any], count: int, kept: range) -> int:
        """Number of the oldest row that there is room for behind these, where `kept` are there now.

        It may be one of the new rows, of which those before it are not stored.
        """
        oldest = max(kept.start, kept.stop + count - self._capacity)
        for name in self._elements:
            rows, first = columns[name], self._end(name, kept)
            gone = first + int(rows.offsets[-1]) - self.layout.ragged[name].max_items
            staying = bisect_left(_Starts(self.store.column(START.format(name)), kept), gone)
            fresh = int(np.searchsorted(rows.offsets[:-1] + first, gone)) if staying == len(kept) else 0
            oldest = max(oldest, kept.start + staying + fresh)
        return oldest

    def write(self, columns: Mapping[str, Any], count: int, kept: range, skipped: int) -> None:
        """Copy rows in behind the newest of `kept`, without the first `skipped` of them."""
        slot = (kept.stop + skipped) % self._capacity
        if not self._elements and not skipped and slot + count <= self._capacity:  # nearly always
            self.store.write(slice(slot, slot + count), columns)
            return
        written: dict[str, NDArray[Any]] = {name: columns[name][skipped:] for name in self.layout.plain}
        for name, elements in self._elements.items():
            rows, first = columns[name], self._end(name, kept)
            elements.write(first + int(rows.offsets[skipped]), rows.values[rows.offsets[skipped] :])
            written[START.format(name)] = first + rows.offsets[skipped:-1]
            written[LENGTH.format(name)] = rows.lengths[skipped:]
        stored = count - skipped
        head = min(stored, self._capacity - slot)
        self.store.write(slice(slot, slot + head), {name: rows[:head] for name, rows in written.items()})
        if head < stored:
            self.store.write(slice(0, stored - head), {name: rows[head:] for name, rows in written.items()})

    def read(self, row_ids: NDArray[np.int64]) -> dict[str, Any]:
        """Fresh columns of the rows with these numbers, ragged ones with `elements` still to be read."""
        return self.store.read(row_ids % self._capacity)

    def whole(self, rows: dict[str, Any]) -> dict[str, Any]:
        """What `read` gave in the columns of the schema: ragged ones with their elements."""
        if not self._elements:
            return rows
        return {
            name: self._row_elements(name, rows) if name in self._elements else rows[name]
            for name in self.layout.schema
        }

    def columns(self, row: Sequence[Any]) -> dict[str, Any]:
        """One row as columns of length 1.

        Raises:
            ShapeError: a value is missing, or of another shape or dtype.
        """
        names = list(self.layout.schema)
        if len(row) != len(names):
            raise ShapeError(f"a row must have one value for each of {names}, got {len(row)}; pass them in order")
        values = dict(zip(names, row, strict=True))
        plain = checked([values[name] for name in self.layout.plain], self.layout.plain)
        found: dict[str, Any] = {
            name: array.astype(column.dtype)[None]
            for (name, column), array in zip(self.layout.plain.items(), plain, strict=True)
        }
        for name, column in self.layout.ragged.items():
            found[name] = Ragged.of([np.asarray(values[name], column.dtype)])
        return found

    def close(self) -> None:
        """Let go of the memory."""
        self.store.close()
        self._elements.clear()

    def _row_elements(self, name: str, rows: Mapping[str, Any]) -> Ragged:
        return self._elements[name].read(rows[START.format(name)], rows[LENGTH.format(name)])

    def _end(self, name: str, kept: range) -> int:
        """Number behind the last element of the newest row; 0 where no row is kept."""
        if not kept:
            return 0
        slot = kept[-1] % self._capacity
        return int(self.store.column(START.format(name))[slot] + self.store.column(LENGTH.format(name))[slot])
