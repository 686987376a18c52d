"""Blocks of a stream ring: rows that were stored together, each with the place it came from, under one checksum.

    mark      of a row: offset, row within the record, rows of the record behind it, partition (24 bytes)
              of a block's first row also: rows of the block, CRC-32C of its number, marks and columns

A block lies in consecutive slots, and gives its rows up together, so a kept row's checksum can always be computed. The
number of the first row is part of the sum: a block of an earlier lap, whole but stale, fails it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from crc32c import crc32c

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

MARK = np.dtype(
    [("offset", "i8"), ("row", "u4"), ("left", "u4"), ("partition", "u2"), ("length", "u2"), ("check", "u4")]
)
MARK_COLUMN = Column("uint8", (MARK.itemsize,))
MAX_PARTITIONS = 1 << 16
MAX_BLOCK_ROWS = 1024  # a checksum's call costs as much as the sum over 4 kB; longer blocks save nothing more
MAX_BLOCK_BYTES = 1 << 18  # a reader sums a whole block for its first row; this is about 10 microseconds


def file_rows(row_bytes: int, max_bytes: int | None, max_rows: int | None) -> int:
    """Rows of a ring that may take `max_bytes` of the disk, or `max_rows`.

    Raises:
        SettingsError: not exactly one of them is given, or it leaves no row.
    """
    if (max_bytes is None) == (max_rows is None):
        raise SettingsError(
            f"a stream ring's size is either max_bytes or max_rows, got {max_bytes} and {max_rows}; give one of them",
            key="max_bytes",
        )
    rows = max_rows if max_bytes is None else max_bytes // (row_bytes + MARK.itemsize)
    assert rows is not None
    if rows < 1:
        raise SettingsError(
            f"a stream ring must hold 1 row or more, got {max_rows if max_bytes is None else max_bytes} "
            f"{'rows' if max_bytes is None else f'bytes for rows of {row_bytes + MARK.itemsize}'}; give it more",
            key="max_rows" if max_bytes is None else "max_bytes",
        )
    return rows


def block_rows(capacity: int, row_bytes: int) -> int:
    """Most rows of a block; a sixteenth of the ring at most, since room comes back by whole blocks."""
    return max(1, min(MAX_BLOCK_ROWS, MAX_BLOCK_BYTES // max(1, row_bytes), capacity // 16))


def block_cuts(first: int, count: int, capacity: int, longest: int) -> Iterator[tuple[int, int, int]]:
    """Slot, start and stop of each block that `count` rows from number `first` on are stored in."""
    start = 0
    while start < count:
        slot = (first + start) % capacity
        stop = min(count, start + longest, start + capacity - slot)
        yield slot, start, stop
        start = stop


def checksum(number: int, marks: NDArray[np.void], columns: Iterable[NDArray[Any]]) -> int:
    """Checksum of a block whose first row has this number; the first mark's own is 0 meanwhile."""
    check = crc32c(marks, crc32c(number.to_bytes(8, "little")))  # type: ignore[arg-type]  # an array is a buffer
    for column in columns:
        check = crc32c(column, check)  # type: ignore[arg-type]  # as above
    return check
