import math
import os

import pytest

from fedmb.ingest.frame import pack_frame
from fedmb.ingest.segment import (
    INDEX_BYTES,
    READ_BYTES,
    Place,
    SparseIndex,
    frame_follows,
    hopped,
    segment_bases,
    segment_path,
)


def framed(offset: int, value: bytes = b"") -> bytes:
    return b"".join(pack_frame(offset, 0, b"", value))


@pytest.fixture
def opened(tmp_path):
    """Writes bytes to a segment and answers its file descriptor."""
    fds = []

    def write(data: bytes) -> int:
        path = segment_path(tmp_path, 0)
        path.write_bytes(data)
        fds.append(os.open(path, os.O_RDONLY))
        return fds[-1]

    yield write
    for fd in fds:
        os.close(fd)


def test_segments_sort_like_their_offsets_and_other_files_are_none(tmp_path):
    for base in (10**19, 0, 9, 10):
        segment_path(tmp_path, base).touch()
    for name in ("owner.lock", "1.log", "000000000000000000x0.log"):
        (tmp_path / name).touch()

    assert segment_bases(tmp_path) == [0, 9, 10, 10**19]
    assert segment_bases(tmp_path / "absent") == []


def test_the_index_remembers_places_far_enough_apart():
    index = SparseIndex(100)
    for step in range(1, 100):
        index.note(Place(100 + step, step * INDEX_BYTES // 4))

    assert index.nearest(100) == index.nearest(103) == Place(100, 0)
    assert index.nearest(104) == index.nearest(107) == Place(104, INDEX_BYTES)
    assert index.nearest(math.inf) == Place(196, 24 * INDEX_BYTES)


def test_hopping_reads_no_values_and_stops_where_it_is_told(opened):
    fd = opened(b"".join(framed(offset, b"x" * (offset % 7) * 30_000) for offset in range(40)))
    index = SparseIndex(0)

    ends = [hopped(fd, Place(0, 0), until, index) for until in range(41)]

    assert [place.offset for place in ends] == list(range(41))
    assert hopped(fd, Place(0, 0), math.inf, index) == ends[40] == Place(40, os.fstat(fd).st_size)
    assert hopped(fd, index.nearest(33), 33, index) == ends[33]


def test_hopping_stops_before_an_unfinished_frame(opened):
    fd = opened(framed(0, b"abc") + framed(1, b"abc")[:-1])

    assert hopped(fd, Place(0, 0), math.inf, SparseIndex(0)).offset == 1


@pytest.mark.parametrize("distance", [0, 1, 100, READ_BYTES - 40, READ_BYTES - 10, READ_BYTES, 2 * READ_BYTES + 3])
def test_a_later_frame_is_found_at_any_distance(opened, distance):
    fd = opened(b"\xff" * distance + framed(8))

    assert frame_follows(fd, 0, 7)
    assert not frame_follows(fd, 0, 8)
    assert not frame_follows(fd, distance + 1, 7)
