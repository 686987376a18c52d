"""Reads and follows partitions of a file log, in any number of processes."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from fedmb.errors import CorruptLog
from fedmb.ingest.frame import Frame, FrameError
from fedmb.ingest.log import Record
from fedmb.ingest.segment import (
    Place,
    SegmentWindow,
    SparseIndex,
    corrupt,
    end_offset,
    hopped,
    is_damage,
    segment_bases,
    segment_path,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fedmb.ledger import StreamPartition

FIRST_WAIT = 0.0005  # seconds; a record that is about to come costs half a millisecond
LONGEST_WAIT = 0.02  # seconds; a silent partition costs 50 looks a second, 3 us each
POLL_BYTES = 8 << 20  # 500 records of 1 MiB at once would be half a GiB, none of it warm when it is decoded
LISTING_SECONDS = 1.0  # a directory of many segments is listed at most so often while nothing comes


class PartitionCursor:
    """A place in one partition, moving over its segments frame by frame."""

    def __init__(self, partition: StreamPartition, directory: Path) -> None:
        self._partition = partition
        self._directory = directory
        self._indexes: dict[int, SparseIndex] = {}
        self._window: SegmentWindow | None = None
        self._wanted = 0
        self._listed_at = -math.inf
        # Of the open segment: its first offset, its index, the next frame's place, whether a later segment exists,
        # and where a look found damage.
        self._base = 0
        self._index = SparseIndex(0)
        self._here = Place(0, 0)
        self._is_sealed = False
        self._suspected: Place | None = None

    def seek(self, offset: int) -> None:
        """Let `frame` answer `offset` next, whether it exists yet or not."""
        self.close()
        self._wanted = offset
        self._listed_at = -math.inf

    def frame(self) -> Frame | None:
        """The next frame, None while there is no whole one.

        Raises:
            CorruptLog: the next frame is damaged, or records are missing.
        """
        while True:
            window = self._window or self._opened()
            if window is None:
                return None
            error: FrameError | None = None
            try:
                frame = window.frame(self._here.position)
            except FrameError as caught:
                frame, error = None, caught
            if frame is None:
                if not self._again(window, error):
                    return None
                continue
            if frame.offset != self._here.offset:
                finding = f"the record there says that its offset is {frame.offset}"
                raise corrupt(self._partition, window.path, self._here, finding)
            self._here = Place(frame.offset + 1, self._here.position + frame.num_bytes)
            self._index.note(self._here)
            self._suspected = None
            if frame.offset >= self._wanted:
                self._wanted = frame.offset + 1
                return frame

    def begin_offset(self) -> int:
        """Offset of the partition's oldest record."""
        return min(segment_bases(self._directory), default=0)

    def end_offset(self) -> int:
        """Offset that the next record of the partition gets."""
        return end_offset(self._directory, self._indexes)

    def close(self) -> None:
        """Close the segment's file; the next `frame` opens it again."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _opened(self) -> SegmentWindow | None:
        """The segment that holds the wanted offset, at a place from which to read on towards it."""
        bases = segment_bases(self._directory)
        if not bases:
            return None
        earlier = [base for base in bases if base <= self._wanted]
        if not earlier:
            first = segment_path(self._directory, bases[0])
            raise corrupt(self._partition, first, Place(self._wanted, 0), "it is the first segment")
        window = self._enter(earlier[-1])
        self._here = hopped(window.fd, self._index.nearest(self._wanted), self._wanted, self._index)
        return window

    def _enter(self, base: int) -> SegmentWindow:
        self.close()
        self._window = SegmentWindow(segment_path(self._directory, base))
        self._index = self._indexes.setdefault(base, SparseIndex(base))
        self._here = Place(base, 0)
        self._base = base
        self._is_sealed = False
        self._suspected = None
        return self._window

    def _again(self, window: SegmentWindow, error: FrameError | None) -> bool:
        """Whether to look once more for the frame that is not there or is bad.

        A first suspicion may come from bytes read while a restarted writer replaced a torn tail, so only a second
        look, at bytes read after the evidence, condemns.

        Raises:
            CorruptLog: it is damaged, or missing.
        """
        window.forget()
        certain = self._is_sealed or self._suspected == self._here
        if certain and self._is_sealed and error is None and self._move_on():
            return True
        if certain and (error is not None or self._is_sealed):
            finding = str(error) if error else "the segment ends before the next one begins"
            raise corrupt(self._partition, window.path, self._here, finding)
        if error is not None and is_damage(window.fd, self._here, error):
            self._suspected = self._here
            return True
        self._suspected = None
        self._is_sealed = self._is_followed()
        return self._is_sealed

    def _is_followed(self) -> bool:
        """True when a later segment exists, so that nothing is appended to this one any more."""
        if self._here.offset > self._base and segment_path(self._directory, self._here.offset).exists():
            return True
        now = time.monotonic()
        if now - self._listed_at < LISTING_SECONDS:
            return False
        self._listed_at = now
        return segment_bases(self._directory)[-1:] > [self._base]

    def _move_on(self) -> bool:
        """Enter the next segment when it starts exactly here."""
        if self._here.offset == self._base or not segment_path(self._directory, self._here.offset).exists():
            return False
        self._enter(self._here.offset)
        return True


class FileLogReader:
    """Reads some partitions of one topic; used by one thread, closed from any.

    A poll gives every partition an equal share of `max_records` and of `POLL_BYTES`, at least one record where there
    is one, so that one with a backlog never hides another. Values are views of what was read, valid as long as they
    are kept.

    Args:
        directories: where the segments of each partition lie; they need not exist yet.
    """

    def __init__(self, directories: Mapping[StreamPartition, Path]) -> None:
        self.partitions: Sequence[StreamPartition] = tuple(directories)
        self._cursors = {partition: PartitionCursor(partition, path) for partition, path in directories.items()}
        self._first = 0
        self._closed = threading.Event()

    def seek(self, partition: StreamPartition, offset: int) -> None:
        """Let the next `poll` give `offset` first; one that does not exist yet is waited for.

        Raises:
            ValueError: the partition is not assigned to this reader, or the offset is negative.
        """
        if partition not in self._cursors:
            raise ValueError(f"a reader seeks in {', '.join(map(str, self.partitions))}, got {partition}; assign it")
        if offset < 0:
            raise ValueError(f"an offset must be 0 or more, got {offset} for {partition}; 0 is the beginning")
        self._cursors[partition].seek(offset)

    def poll(self, timeout_seconds: float, max_records: int = 500) -> list[Record]:
        """The next records, in offset order within each partition; empty when none came in time.

        Raises:
            CorruptLog: the next record of a partition is damaged; raised again until that partition is sought past it.
            ValueError: the reader is closed, or `max_records` is not positive.
        """
        if max_records < 1:
            raise ValueError(f"a poll must ask for 1 record or more, got max_records={max_records}")
        deadline = time.monotonic() + timeout_seconds
        wait = FIRST_WAIT
        while True:
            if self._closed.is_set():
                raise ValueError("the reader is closed; open another one")
            records = self._ready(max_records)
            remaining = deadline - time.monotonic()
            if records or remaining <= 0 or self._closed.wait(min(wait, remaining)):
                return records
            wait = min(2 * wait, LONGEST_WAIT)

    def begin_offsets(self) -> dict[StreamPartition, int]:
        """Offset of the oldest record of each partition, 0 where there is none."""
        return {partition: cursor.begin_offset() for partition, cursor in self._cursors.items()}

    def end_offsets(self) -> dict[StreamPartition, int]:
        """Offset that the next record of each partition will get; reads headers, not values."""
        return {partition: cursor.end_offset() for partition, cursor in self._cursors.items()}

    def acknowledge(self, offsets: Mapping[StreamPartition, int], note: str) -> None:
        """Nothing to do: nobody watches the lag of files."""

    def close(self) -> None:
        """Wake a waiting `poll`, and close files."""
        self._closed.set()
        for cursor in self._cursors.values():
            cursor.close()

    def _ready(self, max_records: int) -> list[Record]:
        share, share_bytes = max(1, max_records // len(self.partitions)), max(1, POLL_BYTES // len(self.partitions))
        records: list[Record] = []
        self._first += 1
        for step in range(len(self.partitions)):
            partition = self.partitions[(self._first + step) % len(self.partitions)]
            cursor, num_bytes = self._cursors[partition], 0
            try:
                for _ in range(min(share, max_records - len(records))):
                    frame = cursor.frame() if num_bytes < share_bytes else None
                    if frame is None:
                        break
                    num_bytes += frame.num_bytes
                    records.append(Record(partition, frame.offset, frame.timestamp_us, frame.value, frame.headers))
            except CorruptLog:
                if records:  # they were read and would be lost; the damage is still there at the next poll
                    return records
                raise
        return records
