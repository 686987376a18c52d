"""The seam between a pump and what keeps its rows, such as a stream ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns
    from fedmb.ledger import Ledger, Position, StreamPartition


class RowSink(Protocol):
    """Keeps rows with the positions behind them, both or neither; used by one thread."""

    @property
    def ledger(self) -> Ledger:
        """The position behind the last row kept or passed over of each partition."""
        ...

    def room(self) -> int:
        """Rows that may be appended now; 0 while an unread row would be lost."""
        ...

    def append(
        self,
        columns: Columns,
        partitions: NDArray[np.integer[Any]],
        offsets: NDArray[np.integer[Any]],
        rows: NDArray[np.integer[Any]],
        left: NDArray[np.integer[Any]],
    ) -> None:
        """Keep rows behind the newest, and let the ledger stand behind them; a killed process keeps all or none.

        Args:
            columns: the rows, `(rows, ...)` each; copied.
            partitions: index of each row's partition among the reader's.
            offsets: offset of its record.
            rows: its number within the record.
            left: rows of the record behind it.
        """
        ...

    def pass_over(self, positions: Mapping[StreamPartition, Position]) -> None:
        """Let the ledger stand at these positions: what lies before them holds no row to keep."""
        ...

    def flush(self) -> None:
        """Make what is kept survive a power cut; blocks on the disk."""
        ...
