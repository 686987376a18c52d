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
import json
import mmap
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from crc32c import crc32c

from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError, VersionMismatch

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Schema

MAGIC = b"FEDMBRNG"
FORMAT = 1
PAGE = 4096  # bytes; commit slots and data each begin on a page of their own
SECTOR = 512  # bytes; the least a disk writes whole: one torn write cannot spoil both commit slots
ALIGNMENT = 64  # bytes; a cache line
MAX_DESCRIPTION = 1 << 20  # bytes; a length above this comes from a foreign file
PREFIX = struct.Struct("<8sIII")
COUNTS = struct.Struct("<QQQ")
CHECKSUM = struct.Struct("<I")


class Commit(NamedTuple):
    """What one commit slot says."""

    sequence: int
    appended: int
    oldest: int


class Layout:
    """Where things lie in the file of a ring of `schema` and `capacity`."""

    def __init__(self, schema: Schema, capacity: int) -> None:
        columns = sorted(schema.items())
        self.description = json.dumps(
            {
                "byteorder": sys.byteorder,
                "capacity": capacity,
                "columns": {name: [column.dtype, list(column.shape)] for name, column in columns},
            }
        ).encode()
        self.commits = _rounded(PREFIX.size + len(self.description), PAGE)
        self.columns: dict[str, tuple[int, Column]] = {}
        end = self.commits + PAGE
        for name, column in columns:
            start = _rounded(end, ALIGNMENT)
            self.columns[name] = (start, column)
            row = np.dtype((column.dtype, column.shape)).itemsize
            end = start + capacity * row
        self.size = _rounded(end, PAGE)


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
            self._lock()
            if os.fstat(self._descriptor).st_size > 0:
                self._check_description()
            self._last = self._last_commit()
            self._map = mmap.mmap(self._descriptor, self._layout.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.columns: dict[str, NDArray[Any]] = {
            name: np.ndarray((capacity, *column.shape), column.dtype, buffer=self._map, offset=start)
            for name, (start, column) in self._layout.columns.items()
        }

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

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise SettingsError(f"a ring must be an ordinary file, got {self.path}; choose another path")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyOwned(
                f"a ring's file must have one owner, {self.path} is in use; stop the other process or choose another "
                "path"
            ) from error

    def _check_description(self) -> None:
        prefix = os.pread(self._descriptor, PREFIX.size, 0)
        if len(prefix) < PREFIX.size or not prefix.startswith(MAGIC):
            raise CorruptRing(f"{self.path} must begin as a ring does, got {prefix[:8]!r}; choose another path")
        _, version, length, checksum = PREFIX.unpack(prefix)
        if version != FORMAT:
            raise VersionMismatch(
                f"a ring's file must have format {FORMAT}, {self.path} has {version}; use the fedmb that made it or "
                "delete it to begin with an empty memory"
            )
        description = os.pread(self._descriptor, min(length, MAX_DESCRIPTION), PREFIX.size)
        if len(description) != length or crc32c(description) != checksum:
            raise CorruptRing(
                f"{self.path}: the description fails its checksum; delete it to begin with an empty memory"
            )
        if description == self._layout.description:
            return
        found, wanted = json.loads(description), json.loads(self._layout.description)
        differences = [
            f"{key} {found.get(key)} (wanted {wanted[key]})" for key in wanted if found.get(key) != wanted[key]
        ]
        raise SettingsError(
            f"a ring's file must fit its settings, {self.path} has {', '.join(differences)}; go back to the former "
            "settings, or move the file away to begin with an empty memory"
        )

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
        """Write the description, the first commit and room for every row."""
        description = self._layout.description
        first = Commit(0, 0, 0)
        try:
            os.pwrite(
                self._descriptor,
                PREFIX.pack(MAGIC, FORMAT, len(description), crc32c(description)) + description,
                0,
            )
            os.pwrite(self._descriptor, _encoded(first), self._layout.commits)
            # Without the reservation a full disk would be a SIGBUS at some later append.
            os.posix_fallocate(self._descriptor, 0, self._layout.size)
        except OSError as error:
            os.ftruncate(self._descriptor, 0)
            raise SettingsError(
                f"a ring must fit on its disk, {self.path} needs {self._layout.size} bytes: {error.strerror}; lower "
                "the capacity or free space",
                key="capacity",
            ) from error
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


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
