"""The file that says which rows of a mapped table are whole.

    0             magic, format, length and CRC-32C of the description; the description (JSON: capacity, columns)
    commits       two commit slots, one sector apart: (sequence, appended, oldest, CRC-32C)
    data          what is known of each slot, as columns by name

A commit goes to the slot that the last one did not use, so a process killed inside it leaves the other slot whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from fedmb.errors import CorruptRing
from fedmb.replay.ring_layout import PAGE, Layout, arrays, check_description, own, reserve

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.batch.minibatch import Schema

MAGIC = b"FEDMBTBL"
SECTOR = 512  # bytes; the least a disk writes whole: one torn write cannot spoil both commit slots
COUNTS = struct.Struct("<QQQ")
CHECKSUM = struct.Struct("<I")
NUM_BYTES = COUNTS.size + CHECKSUM.size


class RowCommit(NamedTuple):
    """What one commit slot says."""

    sequence: int
    appended: int
    """Number of the next row: appends of rows before it have ended."""
    oldest: int
    """Number of the oldest row that is whole, where the oldest always goes first."""


class RowCommits:
    """Counters as commits, and columns by slot over a file; one owner at a time.

    Args:
        path: the file, made when it does not exist; readable by its owner only.
        by_slot: what is known of each slot.
        capacity: slots.

    Raises:
        AlreadyOwned: another live process has the file.
        SettingsError: the file was made for other settings, or the disk cannot hold it.
        CorruptRing: the file is none of ours, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(self, path: Path, by_slot: Schema, capacity: int) -> None:
        self._layout = Layout(by_slot, capacity, magic=MAGIC, commit_bytes=PAGE)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            own(self._descriptor, path)
            if os.fstat(self._descriptor).st_size > 0:
                check_description(self._descriptor, path, self._layout)
            self.last = self._found(path)
            self._map = mmap.mmap(self._descriptor, self._layout.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.columns = arrays(self._map, self._layout.columns, capacity)
        self.is_closed = False

    def commit(self, appended: int, oldest: int) -> None:
        """Let the counters be these, after everything stored so far."""
        self.last = RowCommit(self.last.sequence + 1, appended, oldest)
        at = self._layout.commits + self.last.sequence % 2 * SECTOR
        self._map[at : at + NUM_BYTES] = _encoded(self.last)

    def flush(self) -> None:
        """Write every changed page to the disk; blocks until it is there."""
        self._map.flush()

    def close(self) -> None:
        """Give up the file; its columns are not used afterwards."""
        self.columns.clear()
        self.is_closed = True
        with contextlib.suppress(BufferError):  # somebody holds a column: the pages go with the last of them
            self._map.close()
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # the mapping may hold a duplicate of the descriptor
        os.close(self._descriptor)

    def _found(self, path: Path) -> RowCommit:
        """The newer valid commit; makes the file first where that was never finished."""
        size = os.fstat(self._descriptor).st_size
        slots = [os.pread(self._descriptor, SECTOR, self._layout.commits + SECTOR * index) for index in range(2)]
        last = max(filter(None, map(_decoded, slots)), default=None)
        untouched = (last is not None and last.sequence == 0) or not any(map(any, slots))
        if size < self._layout.size and untouched:
            first, head = RowCommit(0, 0, 0), self._layout.prefix + self._layout.description
            reserve(self._descriptor, path, self._layout, [(0, head), (self._layout.commits, _encoded(first))])
            return first
        if size < self._layout.size or last is None:
            reason = "both commit slots fail their checksum" if last is None else f"it is cut off at {size} bytes"
            raise CorruptRing(f"{path} cannot be trusted: {reason}; delete its folder to begin with an empty table")
        return last


def _encoded(commit: RowCommit) -> bytes:
    counts = COUNTS.pack(*commit)
    return counts + CHECKSUM.pack(crc32c(counts))


def _decoded(slot: bytes) -> RowCommit | None:
    counts = slot[: COUNTS.size]
    checksum = slot[COUNTS.size : NUM_BYTES]
    if len(checksum) < CHECKSUM.size or CHECKSUM.unpack(checksum) != (crc32c(counts),):
        return None
    return RowCommit(*COUNTS.unpack(counts))
