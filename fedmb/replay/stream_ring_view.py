"""The file between the writer of a stream ring and its reader, seen by the reader: nothing is ever written."""

from __future__ import annotations

import json
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptRing, ShapeError
from fedmb.ledger import StreamPartition
from fedmb.replay.ring_layout import PREFIX, arrays, check_description, described
from fedmb.replay.stream_block import MARK, checksum
from fedmb.replay.stream_commit import SEQUENCE, StreamCommit, boot_id, decoded, slot_bytes
from fedmb.replay.stream_ring_file import STREAM_MAGIC, stream_layout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema


class StreamRingView:
    """The rows of a finished stream ring, read only; made by `opened`.

    Raises:
        ShapeError: the ring has other columns than `schema`.
        CorruptRing: the file is not a stream ring, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(self, path: Path, descriptor: int, schema: Schema) -> None:
        self.path = path
        description = json.loads(described(descriptor, path, STREAM_MAGIC))
        found = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in description["columns"].items()}
        wanted = {name: Column(column.dtype, tuple(column.shape)) for name, column in schema.items()}
        if found != wanted:
            raise ShapeError(
                f"the columns of {path} must be the task's {wanted}, got {found}; let the daemon use the same task"
            )
        self.partitions = tuple(map(StreamPartition.parse, description["partitions"]))
        self.capacity: int = description["capacity"]
        layout = stream_layout(found, self.capacity, description["partitions"])
        check_description(descriptor, path, layout)  # also what only the layout knows, such as the order of bytes
        status = os.fstat(descriptor)
        if status.st_size < layout.size:
            raise CorruptRing(f"{path} cannot be trusted: its last rows are cut off; move it away and begin a new one")
        self._identity = status.st_dev, status.st_ino
        self._slot_bytes = slot_bytes(len(self.partitions))
        self._slots = [layout.commits + index * self._slot_bytes for index in range(2)]
        self._last: StreamCommit | None = None
        self._boot = boot_id()
        self._map = mmap.mmap(descriptor, layout.size, prot=mmap.PROT_READ)
        self._columns: dict[str, NDArray[Any]] = arrays(self._map, layout.columns, self.capacity)
        self._marks: NDArray[np.void] = arrays(self._map, layout.hidden, self.capacity)["mark"].view(MARK)[:, 0]

    @classmethod
    def opened(cls, path: Path, schema: Schema) -> StreamRingView | None:
        """The ring in the file; None while there is no file, or its writer still makes it."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not any(os.pread(descriptor, PREFIX.size, 0)):
                return None
            return cls(path, descriptor, schema)
        finally:
            os.close(descriptor)

    def is_replaced(self) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def newest(self) -> StreamCommit | None:
        """The commit that counts; None after a power cut, until a writer has looked at what is left.

        Raises:
            CorruptRing: no commit can be read.
        """
        if self._last and self._last.sequence == max(SEQUENCE.unpack_from(self._map, at)[0] for at in self._slots):
            return self._last
        for _ in range(1000):  # the writer may be about to write the one slot while this reads the other
            slots = (self._map[at : at + self._slot_bytes] for at in self._slots)
            found = [commit for slot in slots if (commit := decoded(slot, len(self.partitions)))]
            if found:
                newest = max(found, key=lambda commit: commit.sequence)
                self._last = newest if newest.boot == self._boot else None
                return self._last
        raise CorruptRing(f"{self.path} cannot be trusted: its commits fail their checksums; restart its writer")

    def block_end(self, first: int) -> int | None:
        """Number behind the block whose first row is `first`; None when its checksum fails."""
        slot = first % self.capacity
        length = int(self._marks["length"][slot])
        marks = self._marks[slot : slot + length].copy()
        if len(marks) < max(1, length):
            return None
        check, marks["check"][0] = int(marks["check"][0]), 0
        columns = (column[slot : slot + length] for column in self._columns.values())
        return first + length if checksum(first, marks, columns) == check else None

    def marks(self, first: int, stop: int) -> NDArray[np.void]:
        """Marks of the rows numbered so, copied."""
        slot = first % self.capacity
        if slot + stop - first <= self.capacity:
            return self._marks[slot : slot + stop - first].copy()
        return self._marks.take(np.arange(first, stop) % self.capacity)

    def gather(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Fresh columns of these rows, `(len(rows), ...)`; ascending numbers."""
        count, first = len(rows), int(rows[0]) % self.capacity
        if rows[-1] - rows[0] != count - 1:
            slots = rows % self.capacity
            return {name: column.take(slots, axis=0) for name, column in self._columns.items()}
        head = min(count, self.capacity - first)
        if head == count:
            return {name: column[first : first + count].copy() for name, column in self._columns.items()}
        return {
            name: np.concatenate([column[first:], column[: count - head]]) for name, column in self._columns.items()
        }

    def close(self) -> None:
        """Release the file."""
        self._columns.clear()
        self._marks = np.empty(0, MARK)
        self._map.close()
