"""How far the reader of a stream ring is: rows that a stored model has learnt may be overwritten.

The reader writes, the writer looks. The file stands beside the ring's, has two slots written in turn, each under its
checksum, and its lock is what makes the reader the only one. A cursor of another generation of the ring says nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from crc32c import crc32c

from fedmb.errors import AlreadyOwned
from fedmb.replay.ring_layout import PAGE, own, rounded

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RELEASE = struct.Struct("<QQQQ")
CHECKSUM = struct.Struct("<I")
PLACE = 16  # bytes of a position


class Release(NamedTuple):
    """What a reader no longer needs."""

    generation: int
    """Generation of the ring whose rows are numbered so."""
    row: int
    """Rows before it are part of a stored model."""
    block: int
    """First row of the block that holds `row`; rows before it may be overwritten."""
    ledger: NDArray[np.int64]
    """The stored model's positions, `(partitions, 2)`."""


def cursor_path(ring: Path) -> Path:
    """The file beside a ring's."""
    return ring.with_name(ring.name + ".cursor")


def last_release(ring: Path, generation: int, partitions: int) -> Release | None:
    """What the reader of a ring said last; None when it said nothing of this generation."""
    try:
        descriptor = os.open(cursor_path(ring), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = _newest(descriptor, generation, partitions)
    finally:
        os.close(descriptor)
    return found[1] if found else None


class RingCursor:
    """The cursor of a ring's one reader.

    Raises:
        AlreadyOwned: another live reader has it.
        SettingsError: it is no ordinary file.
    """

    def __init__(self, ring: Path) -> None:
        ring.parent.mkdir(parents=True, exist_ok=True)
        path = cursor_path(ring)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sequence = 0
        try:
            own(self._descriptor, path)
        except AlreadyOwned as error:
            os.close(self._descriptor)
            refusal = AlreadyOwned(
                f"a ring must have one reader of fresh rows, {ring} has one already; stop the other process or give "
                "each its own ring"
            )
            for note in getattr(error, "__notes__", ()):
                refusal.add_note(note)
            raise refusal from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def last(self, generation: int, partitions: int) -> Release | None:
        """What was released last in this generation, by this reader or the one before."""
        found = _newest(self._descriptor, generation, partitions)
        if found is None:
            return None
        self._sequence = max(self._sequence, found[0])
        return found[1]

    def release(self, release: Release) -> None:
        """Let the writer overwrite what lies before `release`, and nothing else from now on."""
        self._sequence += 1
        counts = RELEASE.pack(self._sequence, release.generation, release.row, release.block)
        content = counts + np.ascontiguousarray(release.ledger).tobytes()
        at = self._sequence % 2 * _slot_bytes(len(release.ledger))
        os.pwrite(self._descriptor, content + CHECKSUM.pack(crc32c(content)), at)

    def close(self) -> None:
        """Let another reader come; what was released stays so."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a child process may hold the descriptor too
        os.close(self._descriptor)


def _newest(descriptor: int, generation: int, partitions: int) -> tuple[int, Release] | None:
    size, found = _slot_bytes(partitions), None
    for index in range(2):
        slot = os.pread(descriptor, RELEASE.size + PLACE * partitions + CHECKSUM.size, index * size)
        content = slot[: -CHECKSUM.size]
        if len(slot) < RELEASE.size + CHECKSUM.size or slot[-CHECKSUM.size :] != CHECKSUM.pack(crc32c(content)):
            continue
        sequence, own_generation, row, block = RELEASE.unpack_from(content)
        if own_generation == generation and len(content) == RELEASE.size + PLACE * partitions:
            ledger = np.frombuffer(content, np.int64, 2 * partitions, RELEASE.size).reshape(partitions, 2)
            if found is None or sequence > found[0]:
                found = sequence, Release(generation, row, block, ledger)
    return found


def _slot_bytes(partitions: int) -> int:
    return rounded(RELEASE.size + PLACE * partitions + CHECKSUM.size, PAGE)
