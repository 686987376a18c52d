"""Segment files of a partition: names, reading, hopping, and telling a torn tail from damage.

A partition's records lie in files named by the offset of their first record, `00000000000000000000.log`. Only the
last one grows. A tail that ends inside a frame is unfinished: its writer is at work or was killed. Bytes that no sum
covers with a whole frame behind them are damage.
"""

from __future__ import annotations

import bisect
import math
import os
from typing import TYPE_CHECKING, NamedTuple

from fedmb.errors import CorruptLog
from fedmb.ingest.frame import HEADER, MAGIC, Frame, FrameError, unpack_frame, unpack_header

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.ledger import StreamPartition

READ_BYTES = 4 << 20  # of 1 MiB records a quarter is read twice; smaller reads waste more, larger ones miss the cache
HOP_BYTES = 64 << 10  # one read covers hundreds of small frames, and costs little where each frame is larger
INDEX_BYTES = 1 << 20  # distance between two remembered places: a seek hops over at most so much

_SUFFIX = ".log"
_DIGITS = 20  # 2**64 has 20 digits, so names sort like offsets


class Place(NamedTuple):
    """A boundary between frames: the offset of the next record and its position in the file."""

    offset: int
    position: int


def segment_path(directory: Path, base: int) -> Path:
    """File of the segment whose first record has offset `base`."""
    return directory / f"{base:0{_DIGITS}}{_SUFFIX}"


def segment_bases(directory: Path) -> list[int]:
    """First offsets of the segments in `directory`, ascending; none when it does not exist."""
    try:
        names = [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == _DIGITS and stem.isdecimal())


def corrupt(partition: StreamPartition, path: Path, place: Place, finding: str) -> CorruptLog:
    """The error for damage at `place`, with the way out in its text."""
    return CorruptLog(
        f"every record of {partition} must match its checksum, but in {path} at byte {place.position}, offset "
        f"{place.offset}: {finding}; restore the file from a copy, or seek past the offset, or give up all records "
        f"from there on: truncate -s {place.position} {path}, and remove the segments behind it",
        topic=partition.topic,
        partition=partition.partition,
        offset=place.offset,
    )


class SparseIndex:
    """Places in one segment, about `INDEX_BYTES` apart, from which a seek starts to hop."""

    def __init__(self, base: int) -> None:
        self._offsets = [base]
        self._positions = [0]

    def note(self, place: Place) -> None:
        """Remember a place behind a checked frame, when it is far enough from the last one."""
        if place.position >= self._positions[-1] + INDEX_BYTES:
            self._offsets.append(place.offset)
            self._positions.append(place.position)

    def nearest(self, offset: float) -> Place:
        """The last remembered place at or before `offset`."""
        at = max(0, bisect.bisect_right(self._offsets, offset) - 1)
        return Place(self._offsets[at], self._positions[at])


class SegmentWindow:
    """Frames of one segment file, through large reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self._view = memoryview(b"")
        self._start = 0

    def frame(self, position: int) -> Frame | None:
        """The frame at `position`, None while it is not whole; `forget` before looking there again.

        Raises:
            FrameError: the bytes there are no frame.
        """
        asked = 0
        while True:
            inside = position - self._start
            if 0 <= inside <= len(self._view):
                found = unpack_frame(self._view, inside)
                if not isinstance(found, int):
                    return found
                if found <= asked:
                    return None
                asked = max(READ_BYTES, found)
            else:
                asked = READ_BYTES
            self._view = memoryview(os.pread(self.fd, asked, position))
            self._start = position

    def forget(self) -> None:
        """Read anew next time: a restarted writer may have cut the tail off and written other frames in its place."""
        self._view = memoryview(b"")

    def close(self) -> None:
        """Close the file; views handed out stay valid."""
        self.forget()
        os.close(self.fd)


def hopped(fd: int, start: Place, until: float, index: SparseIndex) -> Place:
    """The place of offset `until`, or of the last whole frame's end before it, found by reading headers only.

    Stops in front of a damaged header, so that whoever reads there next finds out what is wrong.
    """
    size = os.fstat(fd).st_size
    view, view_start, here = memoryview(b""), 0, start
    while here.offset < until and here.position + HEADER.size <= size:
        inside = here.position - view_start
        if inside + HEADER.size > len(view):
            view, view_start, inside = memoryview(os.pread(fd, HOP_BYTES, here.position)), here.position, 0
            if len(view) < HEADER.size:
                break
        try:
            header = unpack_header(view, inside)
        except FrameError:
            break
        if header.offset != here.offset or here.position + header.num_bytes > size:
            break
        here = Place(here.offset + 1, here.position + header.num_bytes)
        index.note(here)
    return here


def frame_follows(fd: int, position: int, offset: int) -> bool:
    """True when some frame of a later record than `offset` starts at or behind byte `position`."""
    keep = HEADER.size - 1
    while True:
        chunk = os.pread(fd, READ_BYTES, position)
        if len(chunk) < HEADER.size:
            return False
        at = chunk.find(MAGIC)
        while 0 <= at <= len(chunk) - HEADER.size:
            try:
                if unpack_header(memoryview(chunk), at).offset > offset:
                    return True
            except FrameError:
                pass
            at = chunk.find(MAGIC, at + 1)
        position += len(chunk) - keep


def is_damage(fd: int, place: Place, error: FrameError) -> bool:
    """True when the bad frame at `place` is no unfinished tail, because a later record's frame stands behind it."""
    return frame_follows(fd, place.position + (error.num_bytes or 1), place.offset)


def checked_end(partition: StreamPartition, path: Path, start: Place) -> Place:
    """The end of the last whole frame from `start` on, every sum checked.

    Raises:
        CorruptLog: a frame is damaged and others follow it, or it has another offset than its place says.
    """
    window, here = SegmentWindow(path), start
    try:
        while True:
            try:
                frame = window.frame(here.position)
            except FrameError as error:
                if is_damage(window.fd, here, error):
                    raise corrupt(partition, path, here, str(error)) from error
                return here
            if frame is None:
                return here
            if frame.offset != here.offset:
                raise corrupt(partition, path, here, f"the record there says that its offset is {frame.offset}")
            here = Place(here.offset + 1, here.position + frame.num_bytes)
    finally:
        window.close()


def end_offset(directory: Path, indexes: dict[int, SparseIndex]) -> int:
    """Offset that the next record of the partition in `directory` gets, by hopping headers of its last segment.

    Args:
        directory: the partition's; it may not exist.
        indexes: sparse indexes by segment, read and extended.
    """
    bases = segment_bases(directory)
    if not bases:
        return 0
    index = indexes.setdefault(bases[-1], SparseIndex(bases[-1]))
    fd = os.open(segment_path(directory, bases[-1]), os.O_RDONLY)
    try:
        return hopped(fd, index.nearest(math.inf), math.inf, index).offset
    finally:
        os.close(fd)
