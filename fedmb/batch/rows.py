"""Settings of the rows arrow: how a private table is cut into batches and how far ahead they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedmb.batch.prefetch import Prefetch
from fedmb.batch.table import Tail
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.batch.source import BatchSource


class Rows(Section):
    """How rows become mini-batches."""

    tail: Tail = "balance"
    """Rows left over at the end of an epoch: level batches (balance), a short one (keep), or none of them (drop)."""
    prefetch: int = Field(default=0, ge=0)
    """Batches made ahead in a thread, 0 for none. It changes no row; it pays where rows are decoded or fetched."""
    mapped: bool = False
    """Leave a table file on disk and read rows as they are drawn."""

    def ahead(self, source: BatchSource) -> BatchSource:
        """`source` behind a `Prefetch` of the set depth, or as it is."""
        return Prefetch(source, self.prefetch) if self.prefetch else source
