"""A commit is read as it was written, or not at all."""

from __future__ import annotations

import random

import pytest

from fedmb.errors import SettingsError
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.ring_commit import MAX_LEDGER, SLOT_BYTES, RingCommit, decoded, encoded, packed, unpacked


def ledger(partitions):
    return Ledger({StreamPartition("log", "meter", number): Position(number, 7) for number in range(partitions)})


@pytest.mark.parametrize("partitions", [0, 1, 300])
def test_a_commit_comes_back(partitions):
    commit = RingCommit(5, 1 << 40, 3, 2, packed(ledger(partitions)))

    slot = encoded(commit).ljust(SLOT_BYTES, b"\xa5")

    assert len(slot) == SLOT_BYTES
    assert decoded(slot) == commit
    assert unpacked(decoded(slot).ledger) == ledger(partitions)


def test_a_longer_commit_that_lay_there_before_does_not_show():
    old, new = RingCommit(1, 2, 0, 0, packed(ledger(9))), RingCommit(3, 4, 0, 0, b"")

    slot = bytearray(encoded(old))
    slot[: len(encoded(new))] = encoded(new)

    assert decoded(bytes(slot)) == new


def test_a_commit_of_which_any_bit_was_flipped_is_not_read():
    slot = encoded(RingCommit(5, 9, 3, 2, packed(ledger(2))))

    for place in range(len(slot) * 8):
        torn = bytearray(slot)
        torn[place // 8] ^= 1 << place % 8
        assert decoded(bytes(torn)) is None


def test_of_two_commits_mixed_at_any_byte_none_is_read():
    one, other = (encoded(RingCommit(n, n * 1000, n, 0, packed(ledger(2)))) for n in (1, 3))
    assert len(one) == len(other)

    for cut in range(1, len(one)):
        assert decoded(one[:cut] + other[cut:]) in (None, decoded(one), decoded(other))


def test_noise_is_not_read():
    chance = random.Random(0)

    for length in range(200):
        assert decoded(chance.randbytes(length)) is None


def test_an_empty_ledger_takes_no_byte():
    assert packed(Ledger()) == b""
    assert unpacked(b"") == Ledger()


def test_a_ledger_that_no_slot_can_hold_is_refused():
    with pytest.raises(SettingsError, match=f"must fit into {MAX_LEDGER} bytes"):
        packed(ledger(2000))
