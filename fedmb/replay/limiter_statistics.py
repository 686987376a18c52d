"""What a limiter says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitStatistics:
    """What one side has waited."""

    passed: int
    """Calls that were let through."""
    blocked: int
    """Of all calls, those that had to wait first."""
    missed: int
    """Calls whose deadline passed, or whose limiter was closed."""
    waiting: int
    """Calls that wait now."""
    seconds: float
    """Time that calls have waited, those that wait now not included."""


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A limiter at one moment."""

    inserts: int
    """Rows let in."""
    samples: int
    """Rows drawn."""
    deletes: int
    """Rows let in that are gone again."""
    difference: float
    """`inserts * samples_per_insert - samples`."""
    min_difference: float
    """Samples wait rather than fall below it."""
    max_difference: float
    """Inserts wait rather than rise above it."""
    insert: WaitStatistics
    sample: WaitStatistics
