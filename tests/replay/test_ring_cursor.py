"""What a reader released is known to the writer, survives both, and is believed only under its checksum."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.replay.ring_cursor import Release, RingCursor, cursor_path, last_release
from fedmb.replay.ring_layout import PAGE

LEDGER = np.array([[7, 2], [0, 0], [1 << 40, 3]])


@pytest.fixture
def ring(tmp_path):
    return tmp_path / "folder" / "ring"


def release(row: int, generation: int = 5) -> Release:
    return Release(generation, row, row // 2 * 2, LEDGER + row)


def assert_last(ring, expected: Release | None, generation: int = 5) -> None:
    found = last_release(ring, generation, len(LEDGER))
    if expected is None or found is None:
        assert found is expected
    else:
        assert found[:3] == expected[:3]
        assert found.ledger.tolist() == expected.ledger.tolist()


def test_the_writer_sees_the_last_release(ring):
    cursor = RingCursor(ring)
    for row in (3, 9, 4):  # also one that takes back
        cursor.release(release(row))
        assert_last(ring, release(row))
    cursor.close()

    assert_last(ring, release(4))


def test_a_ring_without_a_reader_has_released_nothing(ring):
    assert_last(ring, None)
    RingCursor(ring).close()
    assert_last(ring, None)


def test_another_generation_or_number_of_partitions_says_nothing(ring):
    cursor = RingCursor(ring)
    cursor.release(release(3))

    assert_last(ring, None, generation=6)
    assert last_release(ring, 5, 2) is None
    cursor.close()


def test_the_next_reader_goes_on_behind_the_last_release(ring):
    for row in range(1, 6):
        cursor = RingCursor(ring)
        last = cursor.last(5, len(LEDGER))
        assert (last.row if last else 0) == row - 1
        cursor.release(release(row))
        cursor.close()

    assert_last(ring, release(5))


@pytest.mark.parametrize("byte", [0, 8, 17, 30, 40, 70, 83])
def test_a_damaged_release_leaves_the_one_before(ring, byte):
    cursor = RingCursor(ring)
    for row in (3, 9):
        cursor.release(release(row))
    cursor.close()
    content = bytearray(cursor_path(ring).read_bytes())

    content[byte] ^= 4  # the second release stands in the first slot
    cursor_path(ring).write_bytes(content)
    assert_last(ring, release(3))
    content[PAGE + byte] ^= 4
    cursor_path(ring).write_bytes(content)
    assert_last(ring, None)


def test_a_second_reader_is_refused_and_named(ring):
    cursor = RingCursor(ring)

    with pytest.raises(AlreadyOwned, match=f"one reader of fresh rows, {ring} has one"):
        RingCursor(ring)
    cursor.close()
    RingCursor(ring).close()


def test_a_cursor_is_an_ordinary_file(ring, tmp_path):
    ring.parent.mkdir()
    cursor_path(ring).symlink_to("/dev/null")

    with pytest.raises(SettingsError, match="ordinary file"):
        RingCursor(ring)
