"""How far behind a stream's end somebody has learnt, partition by partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ingest.log import LogReader
    from fedmb.ledger import Position, StreamPartition


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Where one partition begins and ends, and where its learner stands."""

    partition: StreamPartition
    begin: int
    """Offset of its oldest record."""
    learnt: Position | None
    """Position behind the last row learnt; None where nobody has learnt a row of it."""
    end: int
    """Offset that its next record will get."""

    @property
    def lag(self) -> int:
        """Offsets not learnt yet; a record learnt in part counts. A broker's markers count too."""
        return max(0, self.end - max(self.begin, self.learnt.offset if self.learnt else 0))

    @property
    def gone(self) -> int:
        """Offsets that were not learnt and are no longer in the log."""
        return max(0, self.begin - self.learnt.offset) if self.learnt else 0

    def to_json(self) -> dict[str, object]:
        """One line for a machine."""
        return {
            "partition": str(self.partition),
            "begin": self.begin,
            "learnt": list(self.learnt) if self.learnt else None,
            "end": self.end,
            "lag": self.lag,
            "gone": self.gone,
        }


def lags(reader: LogReader, ledger: Mapping[StreamPartition, Position]) -> list[PartitionLag]:
    """The lag of every partition of a reader, in its order.

    Raises:
        Unreachable: the log does not answer.
    """
    begins, ends = reader.begin_offsets(), reader.end_offsets()
    return [
        PartitionLag(partition, begins.get(partition, 0), ledger.get(partition), ends.get(partition, 0))
        for partition in reader.partitions
    ]
