"""What a ring on a device says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceRingStatistics:
    """A ring at one moment; the names that a `TableStatistics` has mean the same."""

    capacity: int
    """Rows it can hold."""
    rows: int
    """Rows that can be drawn."""
    appended: int
    """Rows ever given to `append`."""
    removed: int
    """Of these, rows that are in the ring no more or never were."""
    sampled: int
    """Rows drawn."""
    reprioritized: int
    """Priorities set."""
    stale: int
    """Priorities that came for a row that was gone."""
    refused: int
    """Priorities among tensors that were negative, not finite or above 1e100; they changed nothing."""
    num_bytes: int
    """Bytes of the rows, where they lie."""
