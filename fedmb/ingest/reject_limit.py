"""How many records of a stream may be set aside before somebody must look.

    a record that cannot be read comes
    count = records set aside among the last `reject_window` offsets of its partition, this one included
    too many, when count >= reject_least and count > reject_share * reject_window

The count is a function of the log alone: a process that is started again meets the limit at the same record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedmb.errors import TooManyRejected
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.ingest.log import Record
    from fedmb.ingest.rejected_offsets import RejectedOffsets


class RejectLimit(Section):
    """How many records may be set aside before a stream stops."""

    reject_window: int = Field(default=1000, ge=1)
    """Consecutive offsets of a partition that are looked at together."""
    reject_share: float = Field(default=0.01, ge=0, le=1)
    """Share of them that may be set aside; 1 never stops."""
    reject_least: int = Field(default=10, ge=1)
    """A stream is never stopped by fewer records than these, whatever their share."""

    def check(self, record: Record, error: Exception, known: RejectedOffsets) -> None:
        """Accept that one more record is set aside.

        Args:
            record: the one that comes, which `known` may hold already.
            error: why it cannot be read.
            known: those that came before.

        Raises:
            TooManyRejected: it is one too many; neither it nor what follows may pass the ledger.
        """
        partition, last = record.partition, record.offset
        count = known.count(partition, last - self.reject_window + 1, last - 1) + 1
        if count < self.reject_least or count <= self.reject_share * self.reject_window:
            return
        raise TooManyRejected(
            f"at most {self.reject_share:.4g} of {self.reject_window} records may be set aside, got {count} of "
            f"{partition} up to offset {last}, the last for {type(error).__name__}: {str(error)[:300]}; mend the "
            "producer or the schema and start again, or raise reject_share"
        )
