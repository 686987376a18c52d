"""What a stream ring says of itself after each append: counters, and positions by partition, under one checksum.

A commit says both which rows are there and up to where the stream was read for them, so the two cannot come apart.
"""

from __future__ import annotations

import secrets
import struct
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from crc32c import crc32c

from fedmb.replay.ring_layout import PAGE, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
COUNTS = struct.Struct("<QQ16sQQQQQ")
SEQUENCE = struct.Struct("<Q")
CHECKSUM = struct.Struct("<I")
PLACE = 16  # bytes of a position: offset and row


class StreamCommit(NamedTuple):
    """What one commit slot says."""

    sequence: int
    """Number of the commit; the first field of a slot, so that a waiting reader need not read more."""
    generation: int
    """Changes whenever rows that a reader may have seen are numbered anew."""
    boot: bytes
    """Boot of the kernel that the commit was made under."""
    appended: int
    """Number of the next row."""
    oldest: int
    """Number of the oldest row that is kept; the first of its block."""
    dropped: int
    """Rows overwritten before a stored model had learnt them, as the policy allows."""
    forgotten: int
    """Rows that power cuts or damage took back, to be read from the stream again."""
    waits: bool
    """Whether unread rows are never overwritten."""
    ledger: NDArray[np.int64]
    """Position behind the newest row, or what was passed over behind it; `(partitions, 2)`: offset and row."""
    floor: NDArray[np.int64]
    """Position up to which rows that were released are overwritten, `(partitions, 2)`."""


def slot_bytes(partitions: int) -> int:
    """Size of a commit slot: whole pages, so that making one durable touches no other."""
    return rounded(COUNTS.size + 2 * PLACE * partitions + CHECKSUM.size, PAGE)


def encoded(commit: StreamCommit) -> bytes:
    """The content of a commit's slot."""
    content = COUNTS.pack(*commit[:8]) + commit.ledger.tobytes() + commit.floor.tobytes()
    return content + CHECKSUM.pack(crc32c(content))


def decoded(slot: bytes, partitions: int) -> StreamCommit | None:
    """The commit in a slot; None when its checksum fails."""
    end = COUNTS.size + 2 * PLACE * partitions
    checksum = slot[end : end + CHECKSUM.size]
    if len(checksum) < CHECKSUM.size or CHECKSUM.unpack(checksum) != (crc32c(memoryview(slot)[:end]),):
        return None
    sequence, generation, boot, appended, oldest, dropped, forgotten, waits = COUNTS.unpack_from(slot)
    places = np.frombuffer(slot, np.int64, 4 * partitions, COUNTS.size).reshape(2, partitions, 2)
    return StreamCommit(
        sequence, generation, boot, appended, oldest, dropped, forgotten, bool(waits), places[0], places[1]
    )


def boot_id() -> bytes:
    """Identity of this boot of the kernel, 16 bytes; zeros where the kernel has none."""
    try:
        return uuid.UUID(BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def new_generation() -> int:
    """A number that no earlier generation of any ring had."""
    return secrets.randbits(64)
