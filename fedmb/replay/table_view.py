"""What a reader sees of its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.row_ids import FifoIds, SlotIds
    from fedmb.replay.row_store import RowStore


class StoredRows:
    """A `TableView` of a store and of the ids of its rows."""

    def __init__(self, store: RowStore, ids: FifoIds | SlotIds, *, is_fifo: bool) -> None:
        self._ids = ids
        self._is_fifo = is_fifo
        self.schema: Schema = store.schema
        self.capacity: int = store.capacity
        self.column = store.column
        self.read = store.read

    @property
    def is_fifo(self) -> bool:
        """Row number r lies in slot r % capacity."""
        return self._is_fifo

    @property
    def oldest(self) -> int:
        """Number of the oldest row that has not been overwritten; only where `is_fifo`."""
        return self._ids.oldest

    @property
    def appended(self) -> int:
        """Number of the next row; only where `is_fifo`."""
        return self._ids.appended

    @property
    def num_rows(self) -> int:
        """Rows that can be drawn."""
        return len(self._ids)

    def slots_in_order(self) -> NDArray[np.int64]:
        """Slots that must be kept: of all rows that can be drawn or walked over, oldest first where `is_fifo`."""
        if not self._is_fifo:
            return self._ids.held()
        numbers = np.arange(self.oldest, self.appended)
        return numbers % self.capacity
