"""What a table says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.replay.limiter import RateLimiter
    from fedmb.replay.limiter_statistics import LimiterStatistics
    from fedmb.replay.table_contents import TableContents


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """A table at one moment."""

    capacity: int
    """Rows it can hold."""
    rows: int
    """Rows that can be drawn."""
    appended: int
    """Rows ever given to `append`, those that were not kept included."""
    removed: int
    """Of these, rows that are in the table no more or never were."""
    sampled: int
    """Rows drawn."""
    reprioritized: int
    """Priorities set."""
    stale: int
    """Priorities that came for a row that was gone."""
    num_bytes: int
    """Bytes of the rows, where they lie."""
    limiter: LimiterStatistics | None
    """Its limiter; None where it has none."""


def statistics_of(contents: TableContents, limiter: RateLimiter | None) -> TableStatistics:
    """Statistics of a table, whose lock is held."""
    contents.settle()
    return TableStatistics(
        capacity=contents.store.capacity,
        rows=len(contents.ids),
        appended=contents.ids.appended,
        removed=contents.ids.appended - len(contents.ids),
        sampled=contents.sampled,
        reprioritized=contents.reprioritized,
        stale=contents.stale,
        num_bytes=contents.store.num_bytes,
        limiter=None if limiter is None else limiter.statistics(),
    )
