"""Appends to one partition of a file log, alone."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.ingest.frame import pack_frame, pack_headers
from fedmb.ingest.segment import Place, checked_end, segment_bases, segment_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fedmb.ledger import StreamPartition

logger = logging.getLogger(__name__)

_OWNER = "owner.lock"


@dataclass(frozen=True, slots=True)
class FsyncPolicy:
    """When appended records are forced to the disk.

    A killed process loses nothing under any policy; a machine that loses power loses what was not forced. A model's
    ledger can then stand ahead of the log, which only `always` excludes.
    """

    interval_seconds: float
    """An append forces the file when the last time was so long ago: 0 is every append, `math.inf` is never."""

    def __post_init__(self) -> None:
        if not self.interval_seconds >= 0:
            raise SettingsError(
                f"seconds between two fsyncs must be 0 or more, got {self.interval_seconds}; use FsyncPolicy.always(), "
                "every(seconds) or never()",
                key="fsync",
            )

    @classmethod
    def never(cls) -> FsyncPolicy:
        """Leave it to the kernel; `flush` still forces."""
        return cls(math.inf)

    @classmethod
    def always(cls) -> FsyncPolicy:
        """Force every append before it answers."""
        return cls(0.0)

    @classmethod
    def every(cls, seconds: float) -> FsyncPolicy:
        """Force with the first append `seconds` or more after the last time; a silent writer forces at `flush`."""
        return cls(seconds)


def _write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        position += written
        view = view[written:]


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _owned(partition: StreamPartition, directory: Path) -> int:
    """File descriptor that holds the partition's lock; the kernel frees it with the process, however that ends.

    Raises:
        AlreadyOwned: another writer holds it.
    """
    path = directory / _OWNER
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyOwned(
            f"a partition has one writer at a time, but {f'process {pid}' if pid else 'another process'} writes "
            f"{partition} and holds {path}; stop it, or write to another partition"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


class FileLogWriter:
    """Appends records to one partition; safe to use from several threads.

    Opening checks the last segment, and cuts off a tail that a killed writer left unfinished.

    Args:
        partition: what it writes.
        directory: where its segments lie; made when absent.
        fsync: when records are forced to the disk.
        segment_bytes: a segment that would grow past this many bytes is closed and the next one begun.

    Raises:
        AlreadyOwned: another live writer has the partition.
        CorruptLog: a damaged record of the last segment is followed by good ones.
    """

    def __init__(self, partition: StreamPartition, directory: Path, *, fsync: FsyncPolicy, segment_bytes: int) -> None:
        self.partition = partition
        self._directory = directory
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()
        self._truncated_bytes = 0
        self._fd = -1
        self._base = 0
        self._end = Place(0, 0)
        directory.mkdir(parents=True, exist_ok=True)
        self._owner_fd = _owned(partition, directory)
        try:
            bases = segment_bases(directory)
            self._open(bases[-1] if bases else 0)
            self._recover()
        except BaseException:
            self._release()
            raise
        self._synced_at = time.monotonic()

    @property
    def end_offset(self) -> int:
        """Offset that the next record gets."""
        return self._end.offset

    @property
    def truncated_bytes(self) -> int:
        """Bytes of unfinished tails that this writer has cut off."""
        return self._truncated_bytes

    def append(self, value: bytes, headers: Mapping[str, bytes] | None = None) -> int:
        """Add a record at the end and answer its offset.

        Raises:
            ValueError: the writer is closed, or the record is larger than a frame may be.
            OSError: the disk refused; the record is either whole in the log or not there.
        """
        return self.append_many((value,), headers)

    def append_many(self, values: Sequence[bytes], headers: Mapping[str, bytes] | None = None) -> int:
        """Add one record for each value, all with the same headers, in one write per segment; answers the first offset.

        Raises:
            ValueError: the writer is closed, or a record is larger than a frame may be.
            OSError: the disk refused; the first records are whole in the log, `end_offset` says how many.
        """
        with self._mutex:
            self._check_open()
            first = self._end.offset
            packed = pack_headers(headers)
            timestamp_us = time.time_ns() // 1000
            frames = (pack_frame(first + index, timestamp_us, packed, value) for index, value in enumerate(values))
            for data, count in self._grouped(frames):
                if self._end.position and self._end.position + len(data) > self._segment_bytes:
                    self._roll()
                self._write(data, count)
            if values and time.monotonic() - self._synced_at >= self._fsync.interval_seconds:
                self._sync()
            return first

    def flush(self) -> None:
        """Force every record appended so far to the disk."""
        with self._mutex:
            self._check_open()
            self._sync()

    def close(self) -> None:
        """Force, and give up the partition; a second call does nothing."""
        with self._mutex:
            if self._owner_fd >= 0:
                try:
                    self._sync()
                finally:
                    self._release()

    def _grouped(self, frames: Iterable[tuple[bytes, bytes, bytes]]) -> Iterable[tuple[bytes, int]]:
        """Bytes and number of the frames for one write each, none across the end of a segment."""
        room = self._segment_bytes - self._end.position
        parts: list[bytes] = []
        size = count = 0
        for frame in frames:
            frame_bytes = sum(map(len, frame))
            if count and size + frame_bytes > room:
                yield b"".join(parts), count
                parts, size, count, room = [], 0, 0, self._segment_bytes
            parts += frame
            size += frame_bytes
            count += 1
        if count:
            yield b"".join(parts), count

    def _write(self, data: bytes, count: int) -> None:
        try:
            _write_all(self._fd, data, self._end.position)
            self._end = Place(self._end.offset + count, self._end.position + len(data))
        except BaseException as error:
            # A reader may have seen the frames that are whole already, so their offsets are taken; the rest goes.
            self._recover()
            if isinstance(error, OSError):
                error.filename = str(segment_path(self._directory, self._base))
            raise

    def _recover(self) -> None:
        """Find the end of what is whole, from the last known end on, and cut off the rest."""
        path = segment_path(self._directory, self._base)
        self._end = checked_end(self.partition, path, self._end)
        torn = os.fstat(self._fd).st_size - self._end.position
        if torn:
            os.ftruncate(self._fd, self._end.position)
            os.fsync(self._fd)
            self._truncated_bytes += torn
            logger.warning(
                "torn tail truncated partition=%s offset=%d bytes=%d", self.partition, self._end.offset, torn
            )

    def _open(self, base: int) -> None:
        self._fd = os.open(segment_path(self._directory, base), os.O_RDWR | os.O_CREAT, 0o644)
        self._base = base
        self._end = Place(base, 0)

    def _roll(self) -> None:
        """Begin the next segment; the one before is forced first, since only the last one may have a torn tail."""
        if self._fsync.interval_seconds < math.inf:
            self._sync()
        before, self._fd = self._fd, -1
        os.close(before)
        self._open(self._end.offset)
        if self._fsync.interval_seconds < math.inf:
            _fsync_directory(self._directory)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced_at = time.monotonic()

    def _check_open(self) -> None:
        if self._owner_fd < 0:
            raise ValueError(f"the writer of {self.partition} is closed; open another one")

    def _release(self) -> None:
        for fd in (self._fd, self._owner_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._owner_fd = -1
