"""Settings of the rows arrow: how a private table is cut into batches and how far ahead they are made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

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
    bucket_pool: int = Field(default=32, ge=1)
    """Batches in a pool that is sorted by length, for padded rows; 1 is plain shuffling."""
    bucket_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in a padded batch, padding included; leave it out for batches by rows alone."""
    temperature: float = Field(default=1.0, gt=0)
    """Mix of several tasks in a batch: 1 in proportion to their rows, inf the same of each."""

    @model_validator(mode="after")
    def _temperature_is_a_number(self) -> Rows:
        if math.isnan(self.temperature):
            raise ValueError("a temperature must be a number above 0, got nan; 1 is proportional, inf is uniform")
        return self

    def ahead(self, source: BatchSource) -> BatchSource:
        """`source` behind a `Prefetch` of the set depth, or as it is."""
        return Prefetch(source, self.prefetch) if self.prefetch else source
