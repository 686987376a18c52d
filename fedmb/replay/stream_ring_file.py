"""The file between the writer of a stream ring and its reader, seen by the writer.

    0             magic, format, length and CRC-32C of the description; the description (JSON: also the partitions)
    commits       two slots for what counts while the machine runs, two for what a power cut leaves; whole pages each
    data          the columns by name, then the marks of every row

Each pair of slots is written in turn, so a process killed inside a commit leaves the one before. Pages belong to the
kernel: whatever was stored before a commit is there after it, whoever is killed. A power cut loses pages in any order.
A durable commit is therefore made only after the disk has its rows, and a row is overwritten only after the disk has a
durable commit that gave it up. Which of the two counts is told by the kernel's boot id.

The prefix is written last when a file is made: until then nobody takes it for a ring.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from crc32c import crc32c

from fedmb.errors import CorruptRing
from fedmb.replay.ring_layout import PREFIX, Layout, arrays, check_description, own, reserve
from fedmb.replay.stream_block import MARK, MARK_COLUMN, checksum
from fedmb.replay.stream_commit import StreamCommit, boot_id, decoded, encoded, new_generation, slot_bytes
from fedmb.replay.stream_places import covers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.ledger import StreamPartition

logger = logging.getLogger(__name__)

STREAM_MAGIC = b"FEDMBSRG"
NUM_SLOTS = 4
DURABLE = 2  # index of the first slot that a power cut leaves


def stream_layout(schema: Schema, capacity: int, partitions: Sequence[str]) -> Layout:
    """Where things lie in the file of a stream ring."""
    return Layout(
        schema,
        capacity,
        magic=STREAM_MAGIC,
        commit_bytes=NUM_SLOTS * slot_bytes(len(partitions)),
        details={"partitions": list(partitions)},
        hidden={"mark": MARK_COLUMN},
    )


class StreamRingFile:
    """A stream ring's columns and marks as arrays over a file, and its state as commits; one writer at a time.

    Args:
        path: the file, made with its parent folders when it does not exist; readable by its owner only.
        schema: columns of the ring.
        capacity: rows it holds.
        partitions: of the stream, in the order that marks name them.
        begin: positions at which a new ring begins, `(partitions, 2)`.

    Raises:
        AlreadyOwned: another live writer has the file.
        SettingsError: the file was made for other columns, partitions or capacity, or the disk cannot hold it.
        CorruptRing: the file is not a stream ring, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        capacity: int,
        partitions: Sequence[StreamPartition],
        begin: NDArray[np.int64],
    ) -> None:
        self.path = path
        self.capacity = capacity
        self.layout = stream_layout(schema, capacity, list(map(str, partitions)))
        self._slot_bytes = slot_bytes(len(partitions))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            own(self._descriptor, path)
            if self._is_unfinished(len(partitions)):
                self._make(begin)
            check_description(self._descriptor, path, self.layout)
            self.last, self.durable = self._recovered(len(partitions))
            self._map = mmap.mmap(self._descriptor, self.layout.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.columns: dict[str, NDArray[Any]] = arrays(self._map, self.layout.columns, capacity)
        self.marks: NDArray[np.void] = arrays(self._map, self.layout.hidden, capacity)["mark"].view(MARK)[:, 0]

    def store(self, slot: int, number: int, columns: Columns, marks: NDArray[np.void], start: int) -> None:
        """Put a block into the slots from `slot` on: its marks, and as many rows of `columns` from `start` on."""
        count = len(marks)
        marks["length"][0] = count
        check = checksum(number, marks, ())
        slots, rows = slice(slot, slot + count), slice(start, start + count)
        for name, target in self.columns.items():
            stored = target[slots]
            stored[:] = columns[name][rows]
            check = crc32c(stored, check)  # type: ignore[arg-type]  # an array is a buffer
        marks["check"][0] = check
        self.marks[slot : slot + count] = marks

    def commit(self, commit: StreamCommit) -> None:
        """Let this count, after everything stored so far; its number and boot are set here."""
        self.last = self._written(commit, self.last.sequence, 0)

    def commit_durably(self, commit: StreamCommit) -> None:
        """Let this count after a power cut; blocks until the disk has it. What it says must be there already."""
        self.durable = self._written(commit, self.durable.sequence, DURABLE)
        self._map.flush(self._slot_at(self.durable.sequence, DURABLE), self._slot_bytes)

    def flush(self) -> None:
        """Make the rows of the last commit survive a power cut; blocks until the disk has them."""
        self._map.flush(self.layout.data, self.layout.size - self.layout.data)
        self.commit_durably(self.last)

    def close(self) -> None:
        """Give up the file; its arrays are not used afterwards."""
        self.columns.clear()
        self.marks = np.empty(0, MARK)
        try:
            self._map.close()
        finally:  # the mapping holds a duplicate of the descriptor, so closing ours alone would keep the lock
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _slot_at(self, sequence: int, first: int) -> int:
        return self.layout.commits + (first + sequence % 2) * self._slot_bytes

    def _written(self, commit: StreamCommit, sequence: int, first: int) -> StreamCommit:
        commit = commit._replace(sequence=sequence + 1, boot=self.last.boot)
        content, at = encoded(commit), self._slot_at(sequence + 1, first)
        self._map[at : at + len(content)] = content
        return commit

    def _is_unfinished(self, partitions: int) -> bool:
        size = os.fstat(self._descriptor).st_size
        if size == 0 or size > self.layout.size or any(os.pread(self._descriptor, PREFIX.size, 0)):
            return size == 0
        # A ring that was used and lost its first page is damaged, not unfinished.
        slots = self._slots()
        return all(not any(slot) or ((made := decoded(slot, partitions)) and made.sequence == 0) for slot in slots)

    def _slots(self) -> list[bytes]:
        """What the commit slots hold; those beyond the file's end are empty."""
        return [
            os.pread(self._descriptor, self._slot_bytes, self.layout.commits + index * self._slot_bytes)
            for index in range(NUM_SLOTS)
        ]

    def _make(self, begin: NDArray[np.int64]) -> None:
        first = encoded(StreamCommit(0, new_generation(), boot_id(), 0, 0, 0, 0, waits=True, ledger=begin, floor=begin))
        slots = [(self._slot_at(0, pair), first) for pair in (0, DURABLE)]
        # Slots of a making that was cut off would be newer than these.
        blank = [(self.layout.commits, bytes(NUM_SLOTS * self._slot_bytes))]
        description = (PREFIX.size, self.layout.description)
        reserve(self._descriptor, self.path, self.layout, [description, *blank, *slots])
        os.fsync(self._descriptor)
        os.pwrite(self._descriptor, self.layout.prefix, 0)
        os.fsync(self._descriptor)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _recovered(self, partitions: int) -> tuple[StreamCommit, StreamCommit]:
        """What counts now, and what a power cut would leave."""
        if os.fstat(self._descriptor).st_size < self.layout.size:
            raise CorruptRing(f"{self.path} cannot be trusted: its last rows are cut off; {_WAY_OUT}")
        slots = self._slots()
        found = [decoded(slot, partitions) for slot in slots]
        last = max(filter(None, found[:DURABLE]), key=_sequence, default=None)
        durable = max(filter(None, found[DURABLE:]), key=_sequence, default=None)
        boot = boot_id()
        if last is not None and last.boot == boot:
            is_whole = all(commit or not any(slot) for commit, slot in zip(found, slots[:DURABLE], strict=False))
            # Behind a damaged slot there may have been a later commit, whose rows a reader has seen.
            return last if is_whole else last._replace(generation=new_generation()), durable or _emptied(last)
        if durable is None:
            raise CorruptRing(f"{self.path} cannot be trusted: its commit slots fail their checksums; {_WAY_OUT}")
        restored = _restored(durable, boot)
        lost = max(0, last.appended - restored.appended) if last else 0
        logger.warning(
            "ring restored to its last flush path=%s rows=%d forgotten=%d",
            self.path,
            restored.appended - restored.oldest,
            lost,
        )
        sequence = last.sequence if last else 0
        return restored._replace(sequence=sequence, forgotten=restored.forgotten + lost), durable


_WAY_OUT = "move it away, and the stream is read again from where a new ring begins"


def _sequence(commit: StreamCommit) -> int:
    return commit.sequence


def _restored(durable: StreamCommit, boot: bytes) -> StreamCommit:
    """A durable commit as the state to go on from: its rows that were never given up, under numbers of their own."""
    appended = max(durable.appended, durable.oldest)  # rows given up behind the last flush are read again
    reach = covers(durable.ledger, durable.floor)[:, None]
    floor = np.where(reach, durable.floor, durable.ledger)
    return durable._replace(appended=appended, generation=new_generation(), boot=boot, floor=floor)


def _emptied(last: StreamCommit) -> StreamCommit:
    """A durable commit in the place of a damaged one: no row, to be read again from where the kept ones began."""
    return last._replace(sequence=0, appended=last.oldest, ledger=last.floor)
