"""One source for all devices of a client: rank 0 takes, every rank gets the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.errors import NotEnoughData

if TYPE_CHECKING:
    from fedmb.batch.minibatch import MiniBatch, Schema
    from fedmb.batch.source import BatchSource, SourcePosition
    from fedmb.training.distributed import Ranks


class DealtSource:
    """A `BatchSource` that gives every rank the batches of rank 0's source; all ranks take, seek and ask alike.

    Span and origins stay with rank 0, which speaks for the client.

    Args:
        source: used on rank 0; the others' may be any source of the same schema, and is not touched.
        ranks: this process among those of its client.
    """

    def __init__(self, source: BatchSource, ranks: Ranks) -> None:
        self._source = source
        self._ranks = ranks

    @property
    def schema(self) -> Schema:
        """Columns of rank 0's source."""
        return self._source.schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows in one pass over the source."""
        return self._source.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """Rank 0's next rows, on every rank.

        Raises:
            NotEnoughData: rank 0's source stayed silent; told on every rank.
        """
        batch, silence = None, ""
        if self._ranks.is_first:
            try:
                batch = self._source.take(size)
            except NotEnoughData as error:
                silence = str(error)
        silence = str(self._ranks.told(silence))
        if silence:
            raise NotEnoughData(silence)
        return self._ranks.dealt(batch)

    def position(self) -> SourcePosition:
        """Where rank 0's next `take` starts, on every rank."""
        position: SourcePosition = self._ranks.told(self._source.position() if self._ranks.is_first else None)
        return position

    def seek(self, position: SourcePosition) -> None:
        """Go to a position on rank 0."""
        if self._ranks.is_first:
            self._source.seek(position)

    def close(self) -> None:
        """Release rank 0's source."""
        self._source.close()
