"""The file behind a mapped ring.

    0             magic, format, length and CRC-32C of the description; the description (JSON: capacity, columns)
    commits       two commit slots, one sector apart: (sequence, appended, oldest, CRC-32C)
    data          the columns by name, each on a 64-byte boundary

A commit goes to the slot that the last one did not use, so a process killed inside it leaves the other slot whole.
What was stored before a commit is there after it whenever the *process* dies, since the pages belong to the kernel;
a machine that loses power may have written pages in any order, and rows since the last `flush` cannot be trusted.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from fedmb.errors import CorruptRing
from fedmb.replay.ring_layout import Layout, arrays, check_description, own, reserve

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.batch.minibatch import Schema

SECTOR = 512  # bytes; the least a disk writes whole: one torn write cannot spoil both commit slots
COUNTS = struct.Struct("<QQQ")
CHECKSUM = struct.Struct("<I")


class Commit(NamedTuple):
    """What one commit slot says."""

    sequence: int
    appended: int
    oldest: int


class RingFile:
    """A ring's columns as arrays over a file, and its counters as commits; one owner at a time.

    Args:
        path: the file, made with its parent folders when it does not exist; readable by its owner only.
        schema: columns of the ring.
        capacity: rows it holds.

    Raises:
        AlreadyOwned: another live ring has the file.
        SettingsError: the file was made for other columns or another capacity, or the disk cannot hold it.
        CorruptRing: the file is not a ring, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(self, path: Path, schema: Schema, capacity: int) -> None:
        self.path = path
        self._layout = Layout(schema, capacity)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            own(self._descriptor, path)
            if os.fstat(self._descriptor).st_size > 0:
                check_description(self._descriptor, path, self._layout)
            self._last = self._last_commit()
            self._map = mmap.mmap(self._descriptor, self._layout.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.columns = arrays(self._map, self._layout.columns, capacity)

    @property
    def last(self) -> Commit:
        """The commit that counts."""
        return self._last

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._layout.size

    def commit(self, appended: int, oldest: int) -> None:
        """Let the counters be these, after everything stored so far."""
        self._last = Commit(self._last.sequence + 1, appended, oldest)
        at = self._layout.commits + self._last.sequence % 2 * SECTOR
        content = _encoded(self._last)
        self._map[at : at + len(content)] = content

    def flush(self) -> None:
        """Write every changed page to the disk; blocks until it is there."""
        self._map.flush()

    def close(self) -> None:
        """Give up the file; its arrays are not used afterwards."""
        self.columns.clear()
        try:
            self._map.close()
        finally:  # the mapping holds a duplicate of the descriptor, so closing ours alone would keep the lock
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _last_commit(self) -> Commit:
        """The newer valid commit; makes the file first where that was never finished."""
        size = os.fstat(self._descriptor).st_size
        slots = [os.pread(self._descriptor, SECTOR, self._layout.commits + SECTOR * index) for index in range(2)]
        last = max(filter(None, map(_decoded, slots)), default=None)
        untouched = (last is not None and last.sequence == 0) or not any(map(any, slots))
        if size < self._layout.size and untouched:
            return self._make()
        if size < self._layout.size or last is None:
            reason = "both commit slots fail their checksum" if last is None else f"its last rows are cut off at {size}"
            raise CorruptRing(f"{self.path} cannot be trusted: {reason}; delete it to begin with an empty memory")
        return last

    def _make(self) -> Commit:
        first, head = Commit(0, 0, 0), self._layout.prefix + self._layout.description
        reserve(self._descriptor, self.path, self._layout, [(0, head), (self._layout.commits, _encoded(first))])
        return first


def _encoded(commit: Commit) -> bytes:
    counts = COUNTS.pack(*commit)
    return counts + CHECKSUM.pack(crc32c(counts))


def _decoded(slot: bytes) -> Commit | None:
    counts = slot[: COUNTS.size]
    checksum = slot[COUNTS.size : COUNTS.size + CHECKSUM.size]
    if len(checksum) < CHECKSUM.size or CHECKSUM.unpack(checksum) != (crc32c(counts),):
        return None
    return Commit(*COUNTS.unpack(counts))
