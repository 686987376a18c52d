"""A drawn batch as bytes: rows as one block, ids, and probabilities and weights where there are any.

The parts lie behind one another in this order, the ids on a 16-byte boundary; in a message they follow the frame's
header, in shared memory they fill a slot and the header travels alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.errors import DecodeError
from fedmb.replay.ring_layout import rounded
from fedmb.replay.row_block import RowBlock
from fedmb.replay.sample import Sample
from fedmb.replay.wire_format import PAD, PROBABLE, WEIGHTED, batch_head, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema

_ZEROS = bytes(PAD)


class Parts(NamedTuple):
    """Where the parts of a batch begin, in bytes behind its own beginning."""

    ids: int
    probabilities: int
    weights: int
    stop: int


class BatchForm:
    """How batches of one schema become bytes, and samples again.

    Args:
        schema: columns of a drawn row.
    """

    def __init__(self, schema: Schema) -> None:
        self.rows = RowBlock(schema)

    @property
    def schema(self) -> Schema:
        """Columns of a drawn row."""
        return self.rows.schema

    def parts(self, num_rows: int, flags: int = WEIGHTED | PROBABLE) -> Parts:
        """Where the parts of a batch of so many rows lie; `flags` say which there are."""
        ids = rounded(num_rows * self.rows.row_bytes, PAD)
        probabilities = ids + 8 * num_rows
        weights = probabilities + (8 * num_rows if flags & PROBABLE else 0)
        return Parts(ids, probabilities, weights, weights + (4 * num_rows if flags & WEIGHTED else 0))

    def framed(self, sample: Sample, table_rows: int) -> list[Any]:  # buffers
        """The frame of a batch as buffers to be joined."""
        num_rows, flags = len(sample.ids), flags_of(sample)
        parts = self.parts(num_rows, flags)
        block = self.rows.drawn(sample.columns, num_rows)
        found = [batch_head(num_rows, flags, parts.stop, table_rows), block, _ZEROS[: parts.ids - block.nbytes]]
        found += [array for array in (sample.ids, sample.probabilities, sample.weights) if array is not None]
        found.append(_ZEROS[: padded(parts.stop) - parts.stop])
        return found

    def put(self, sample: Sample, buffer: Any, offset: int, *, table_rows: int, slot: int) -> bytes:  # memory
        """Copy a batch into memory at `offset`; the header that tells of it."""
        num_rows, flags = len(sample.ids), flags_of(sample)
        parts = self.parts(num_rows, flags)
        block = self.rows.drawn(sample.columns, num_rows)
        self.rows.over(buffer, num_rows, offset).view(self.rows.raw)[...] = block.view(self.rows.raw)
        np.ndarray((num_rows,), np.int64, buffer, offset + parts.ids)[...] = sample.ids
        if sample.probabilities is not None:
            np.ndarray((num_rows,), np.float64, buffer, offset + parts.probabilities)[...] = sample.probabilities
        if sample.weights is not None:
            np.ndarray((num_rows,), np.float32, buffer, offset + parts.weights)[...] = sample.weights
        return batch_head(num_rows, flags, 0, table_rows, slot)

    def sample(self, buffer: Any, offset: int, num_rows: int, flags: int) -> tuple[Sample, NDArray[np.void]]:  # memory
        """The batch that lies in memory as views of it, and the array that every column of rows holds on to.

        Raises:
            DecodeError: it does not fit.
        """
        parts = self.parts(num_rows, flags)
        if offset + parts.stop > len(buffer):
            raise DecodeError(
                f"a batch of {num_rows} rows must have {parts.stop} bytes, got {len(buffer) - offset}; speak its "
                "version"
            )
        block = np.ndarray((num_rows,), self.rows.dtype, buffer, offset)
        ids = np.ndarray((num_rows,), np.int64, buffer, offset + parts.ids)
        weights = probabilities = None
        if flags & PROBABLE:
            probabilities = np.ndarray((num_rows,), np.float64, buffer, offset + parts.probabilities)
        if flags & WEIGHTED:
            weights = np.ndarray((num_rows,), np.float32, buffer, offset + parts.weights)
        return Sample(self.rows.columns(block), ids, weights, probabilities), block


def flags_of(sample: Sample) -> int:
    """Which parts a batch has."""
    return (PROBABLE if sample.probabilities is not None else 0) | (WEIGHTED if sample.weights is not None else 0)
