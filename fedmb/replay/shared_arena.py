"""Memory that a replay service and one client of the same machine share: slots, each for one batch of rows.

The service makes it, without a name, and hands it over a socket of this machine; it is sealed, so that nobody can make
it shorter under the other's hands. Who may write to a slot is said in frames: the client offers a slot with `PULL` and
leaves it alone until the `BATCH` that names it, or fills one and leaves it alone until its rows are `INSERTED`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import NamedTuple

from fedmb.errors import DecodeError
from fedmb.replay.ring_layout import PAGE, rounded

MAX_SLOTS = 256
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Wanted(NamedTuple):
    """What a client would like to share."""

    num_slots: int
    slot_bytes: int

    @classmethod
    def checked(cls, num_slots: object, slot_bytes: object, most: int) -> Wanted:
        """The same, within `most` bytes.

        Raises:
            DecodeError: the numbers are none, or too large.
        """
        is_number = type(num_slots) is int and type(slot_bytes) is int
        if not is_number or not (1 <= num_slots <= MAX_SLOTS and slot_bytes >= 1 and num_slots * slot_bytes <= most):  # type: ignore[operator]  # numbers, as found
            raise DecodeError(
                f"shared memory must be 1 to {MAX_SLOTS} slots and {most} bytes at most, got {num_slots} of "
                f"{slot_bytes}; ask for fewer or smaller ones, or send rows over the network's path"
            )
        return cls(num_slots, slot_bytes)  # type: ignore[arg-type]  # as above


class Arena:
    """Slots of shared memory; closed when nothing uses its arrays any more.

    Args:
        descriptor: of the memory; closed by this class.
        wanted: how many slots, and how large.

    Raises:
        DecodeError: the memory is not sealed, or too short.
    """

    def __init__(self, descriptor: int, wanted: Wanted) -> None:
        self.num_slots, slot_bytes = wanted
        self.slot_bytes = rounded(slot_bytes, PAGE)
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise DecodeError("shared memory must be sealed against becoming shorter, got some that is not")
            if os.fstat(descriptor).st_size != self.num_slots * self.slot_bytes:
                raise DecodeError(f"shared memory must be {wanted}, got {os.fstat(descriptor).st_size} bytes")
            self.memory = mmap.mmap(descriptor, self.num_slots * self.slot_bytes)
        except OSError as error:
            raise DecodeError(f"shared memory must be memory, got {error.strerror}; speak its version") from error
        finally:
            os.close(descriptor)

    @staticmethod
    def make(wanted: Wanted) -> int:
        """A descriptor of new sealed memory; its pages are taken when they are first written.

        Raises:
            OSError: the machine does not give it.
        """
        descriptor = os.memfd_create("fedmb-replay", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, wanted.num_slots * rounded(wanted.slot_bytes, PAGE))
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def offset(self, slot: int, num_bytes: int) -> int:
        """Where a slot begins.

        Raises:
            DecodeError: there is no such slot, or so many bytes do not fit.
        """
        if not 0 <= slot < self.num_slots or num_bytes > self.slot_bytes:
            raise DecodeError(
                f"a slot must be 0 to {self.num_slots - 1} and hold {self.slot_bytes} bytes at most, got {num_bytes} "
                f"bytes in slot {slot}; name slots of this memory"
            )
        return slot * self.slot_bytes


def boot() -> str:
    """Names this start of this machine; empty where the kernel does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
