import os

import pytest

from fedmb.errors import DecodeError
from fedmb.replay.shared_arena import Arena, Wanted, boot


def test_both_ends_see_the_same_memory():
    wanted = Wanted(3, 5000)
    descriptor = Arena.make(wanted)
    one, other = Arena(os.dup(descriptor), wanted), Arena(descriptor, wanted)

    start = one.offset(2, 5000)
    one.memory[start : start + 4] = b"rows"

    assert other.memory[start : start + 4] == b"rows"
    assert start % 4096 == 0


def test_nobody_can_make_it_shorter():
    wanted = Wanted(2, 4096)
    descriptor = Arena.make(wanted)
    kept = Arena(os.dup(descriptor), wanted)

    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 1)
    os.close(descriptor)
    assert kept.memory[8191] == 0


@pytest.mark.parametrize("seal", [True, False])
def test_memory_that_is_not_as_agreed_is_refused(seal):
    descriptor = Arena.make(Wanted(1, 4096)) if seal else os.memfd_create("other", os.MFD_ALLOW_SEALING)

    with pytest.raises(DecodeError, match="shared memory must be"):
        Arena(descriptor, Wanted(2, 4096))


def test_a_file_is_no_memory(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    with pytest.raises(DecodeError, match="must be memory"):
        Arena(descriptor, Wanted(1, 4096))


@pytest.mark.parametrize(
    "asked", [(0, 1), (1, 0), (-1, 5), (500, 1), (2, 600), ("1", 1), (1, None), (True, 1), (1, 1.5)]
)
def test_what_is_asked_for_has_limits(asked):
    with pytest.raises(DecodeError, match="256 slots and 1000 bytes"):
        Wanted.checked(*asked, 1000)


def test_there_are_no_other_slots():
    wanted = Wanted(2, 100)
    arena = Arena(Arena.make(wanted), wanted)

    for slot, size in ((-1, 1), (2, 1), (0, 4097)):
        with pytest.raises(DecodeError, match="slot"):
            arena.offset(slot, size)


def test_a_machine_has_a_name():
    assert boot() == boot() != ""
