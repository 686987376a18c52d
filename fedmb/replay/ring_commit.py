"""What a ring says of itself after each append: counters, and up to where the stream was read, under one checksum.

A commit goes to the slot that the last one did not use, so whoever reads the file finds one of the two whole, also
where its writer was killed inside a commit or is about to make the next one.
"""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

from crc32c import crc32c

from fedmb.errors import SettingsError
from fedmb.ledger import Ledger

NUM_SLOTS = 2
SLOT_BYTES = 1 << 14  # pages of their own, so that no torn write spoils both slots; room for some 400 partitions
COUNTS = struct.Struct("<QQQQI")
SEQUENCE = struct.Struct("<Q")
CHECKSUM = struct.Struct("<I")
MAX_LEDGER = SLOT_BYTES - COUNTS.size - CHECKSUM.size


class RingCommit(NamedTuple):
    """What one commit slot says."""

    sequence: int
    """Number of the commit; the first field of a slot, so that a waiting reader need not read more."""
    appended: int
    """Number of the next row."""
    oldest: int
    """Number of the oldest row that can be gathered."""
    rewinds: int
    """Times that rows were taken back: row numbers may name other rows since."""
    ledger: bytes
    """Position behind the newest row, by partition, as `packed`."""


def encoded(commit: RingCommit) -> bytes:
    """The content of a commit's slot."""
    content = COUNTS.pack(*commit[:4], len(commit.ledger)) + commit.ledger
    return content + CHECKSUM.pack(crc32c(content))


def decoded(slot: bytes) -> RingCommit | None:
    """The commit in a slot; None when its checksum fails."""
    if len(slot) < COUNTS.size + CHECKSUM.size:
        return None
    sequence, appended, oldest, rewinds, length = COUNTS.unpack_from(slot)
    end = COUNTS.size + length
    checksum = slot[end : end + CHECKSUM.size]
    if len(checksum) < CHECKSUM.size or CHECKSUM.unpack(checksum) != (crc32c(memoryview(slot)[:end]),):
        return None
    return RingCommit(sequence, appended, oldest, rewinds, slot[COUNTS.size : end])


def packed(ledger: Ledger) -> bytes:
    """A ledger in a commit; an empty one takes no byte.

    Raises:
        SettingsError: it names more partitions than a commit has room for.
    """
    content = json.dumps(ledger.to_json(), separators=(",", ":")).encode() if ledger else b""
    if len(content) > MAX_LEDGER:
        raise SettingsError(
            f"a ring's ledger must fit into {MAX_LEDGER} bytes, got {len(content)} of {len(ledger)} partitions; give "
            "each ring fewer partitions"
        )
    return content


def unpacked(content: bytes) -> Ledger:
    """A ledger out of a commit."""
    return Ledger.from_json(json.loads(content)) if content else Ledger()
