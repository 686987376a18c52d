"""Rows in slots of one piece of memory, of a file or of shared memory; no order and no policy.

A slot is written and read by its number, 0 to `capacity - 1`. Reading copies out, writing copies in; only `column`
gives a live view. One thread at a time.
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import ShapeError
from fedmb.replay.ring_layout import ALIGNMENT
from fedmb.replay.row_file import RowFile
from fedmb.replay.row_layout import RowLayout
from fedmb.replay.row_writer import WriteRow, column_writer, struct_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns, Schema
    from fedmb.replay.row_layout import Choice, Kind

HUGE_PAGE = 1 << 21  # bytes; with small pages a row at random also misses the TLB, a quarter of the time of reading it


class RowStore:
    """Fixed columns for `capacity` rows; made by `RowStore.in_memory`, `RowStore.mapped` or `RowStore.over`.

    `write_row(slot, row)` copies one row in: values in the order of the schema, of its shapes exactly, as arrays, lists
    or numbers. It raises `ShapeError` where one is missing, of another shape, or of a dtype that cannot be cast without
    changing its kind, and `IndexError` where there is no such slot; then nothing is written.
    """

    def __init__(self, layout: RowLayout, data: NDArray[np.uint8], file: RowFile | None = None) -> None:
        self._layout = layout
        self._file = file
        self._columns = layout.columns(data)
        self._structs: NDArray[np.void] | None = None
        if layout.kind == "rows":
            self._structs = layout.structs(data).view(f"V{layout.row_dtype.itemsize}")
            memory = data[: layout.num_bytes].data
            self.write_row: WriteRow = struct_writer(layout.schema, layout.row_dtype, memory)
        else:
            self.write_row = column_writer(layout.schema, self._columns)

    @classmethod
    def in_memory(cls, schema: Schema, capacity: int, *, layout: Choice = "auto") -> RowStore:
        """An empty store that ends with its process; its pages are taken as rows are written.

        Raises:
            SettingsError: capacity is below 1, there is no column, a column is not of numbers, or no such layout.
        """
        placed = RowLayout(schema, capacity, layout)
        return cls(placed, allocated(placed.num_bytes))

    @classmethod
    def mapped(cls, path: str | Path, schema: Schema, capacity: int, *, layout: Choice = "auto") -> RowStore:
        """The store in the file at `path`, which is made when it does not exist and owned until `close`.

        Raises:
            AlreadyOwned: another live store has the file.
            SettingsError: as `in_memory`, the file was made for other settings, or the disk is full.
            CorruptRing: the file is no store, or is damaged.
            VersionMismatch: the file has another format version.
        """
        file = RowFile(Path(path), schema, capacity, layout)
        return cls(file.layout, file.data, file)

    @classmethod
    def over(
        cls, buffer: Any, schema: Schema, capacity: int, *, layout: Choice = "auto"
    ) -> RowStore:  # whatever has the buffer protocol
        """The store in somebody's memory: shared memory, a mapped file; its bytes are the rows as they are.

        Args:
            buffer: has `RowLayout(schema, capacity, layout).num_bytes` bytes or more, on a 64-byte boundary; outlives
                the store.
            schema: columns of every row.
            capacity: rows.
            layout: as `in_memory`.

        Raises:
            ShapeError: the buffer is too small.
        """
        placed = RowLayout(schema, capacity, layout)
        data = np.frombuffer(buffer, np.uint8)
        if len(data) < placed.num_bytes:
            raise ShapeError(
                f"memory of {capacity} rows must have {placed.num_bytes} bytes, got {len(data)}; make it larger"
            )
        return cls(placed, data)

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of every row."""
        return self._layout.schema

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return self._layout.capacity

    @property
    def layout(self) -> Kind:
        """Whether rows or columns lie together."""
        return self._layout.kind

    @property
    def row_dtype(self) -> np.dtype[np.void]:
        """The aligned struct of one row, the same in every layout."""
        return self._layout.row_dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's own values, without padding."""
        return self._layout.row_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows, where they lie."""
        return self._layout.num_bytes

    def write(self, slots: NDArray[np.int64] | slice, columns: Columns) -> None:
        """Copy rows in; of a slot that comes twice the later row stays.

        Args:
            slots: one for each row, or a slice with the stride 1.
            columns: of the schema and of one length, which is not looked at again: see `check_columns`.
        """
        where = _run(slots)
        for name, target in self._columns.items():
            target[where] = columns[name]

    def read(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Fresh columns of these rows, `(len(slots), ...)`; in a layout by rows they are views of one fresh block.

        Raises:
            IndexError: there is no such slot.
        """
        if self._structs is None:
            return {name: column.take(slots, axis=0) for name, column in self._columns.items()}
        block = self._structs.take(slots).view(self._layout.row_dtype)
        return {name: block[name] for name in self._columns}

    def read_block(self, slots: NDArray[np.int64], out: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """These rows as one contiguous block, `(len(slots),)` of `row_dtype`, in `out` where that is given.

        Raises:
            IndexError: there is no such slot.
        """
        if self._structs is not None:
            if out is None:
                return self._structs.take(slots).view(self._layout.row_dtype)
            if len(slots) and (slots.min() < 0 or slots.max() >= self._layout.capacity):
                raise IndexError(f"slots must be 0 to {self._layout.capacity - 1}, got {slots.min()} to {slots.max()}")
            # Every other mode gathers into memory of its own first, and copies.
            self._structs.take(slots, out=out.view(self._structs.dtype), mode="clip")
            return out
        block = np.zeros(len(slots), self._layout.row_dtype) if out is None else out
        for name, column in self._columns.items():
            block[name] = column.take(slots, axis=0)
        return block

    def write_block(self, slots: NDArray[np.int64] | slice, block: NDArray[np.void]) -> None:
        """Copy rows in that lie as `read_block` gave them.

        Raises:
            ShapeError: the block is not of `row_dtype`.
        """
        if block.dtype != self._layout.row_dtype:
            raise ShapeError(
                f"a block must be of the store's rows {self._layout.row_dtype}, got {block.dtype}; use its row_dtype"
            )
        where = _run(slots)
        if self._structs is None:
            for name, target in self._columns.items():
                target[where] = block[name]
        elif isinstance(where, slice):
            self._structs[where] = block.view(self._structs.dtype)
        else:
            self._structs.put(where, block.view(self._structs.dtype))

    def column(self, name: str) -> NDArray[Any]:
        """A live view of one column, `(capacity, ...)`: what is written later shows."""
        return self._columns[name]

    def flush(self) -> None:
        """Make every row survive a power cut, where there is a file; blocks on the disk."""
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Give up the memory or the file; nothing else is used afterwards."""
        self._columns = {}
        self._structs = None
        self.write_row = _refuse
        if self._file:
            self._file.close()
            self._file = None


def allocated(num_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory on a 64-byte boundary, of huge pages where it is large and the kernel has them."""
    if num_bytes < 2 * HUGE_PAGE:
        spare = np.zeros(num_bytes + ALIGNMENT, np.uint8)
        start = -spare.ctypes.data % ALIGNMENT
        return spare[start : start + num_bytes]
    # The kernel gives huge pages on their own boundary only; what lies before and behind is never touched.
    pages = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # not on every kernel
        pages.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(pages, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + num_bytes]


def _refuse(*_row: object) -> None:
    raise ValueError("a store must be open, this one was closed; make another")


def _run(slots: NDArray[np.int64] | slice) -> NDArray[np.int64] | slice:
    """A slice in place of slots that follow each other: three times as fast to write to."""
    if isinstance(slots, slice) or len(slots) < 2:  # noqa: PLR2004  # one slot is no run
        return slots
    first, last = int(slots[0]), int(slots[-1])
    if last - first != len(slots) - 1 or first < 0 or (slots[1:] - slots[:-1] != 1).any():
        return slots
    return slice(first, last + 1)
