"""A source that draws rows by what they cost, told the loss that each row had when it was learnt.

    after each step:    keep what the forward pass gave, on the device
    take:               where the source asks for losses, read all that was kept, in one copy, and tell it
    position:           read and tell the rest, so that the position holds them

Being told earlier changes no draw, so a run that stops and goes on draws the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fedmb.batch.loss_listener import LossListener, listener_of
from fedmb.batch.minibatch import MiniBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedmb.batch.minibatch import Schema
    from fedmb.batch.source import BatchSource, SourcePosition
    from fedmb.training.distributed import Ranks
    from fedmb.training.step import StepReport


class _Learnt(NamedTuple):
    """The losses of one batch, still on the device."""

    batch: int
    rows: int
    losses: Sequence[Tensor]


class ToldSource:
    """A `BatchSource` that gives the batches of another and tells it their losses; made by `around`.

    A batch that a guard threw away is not told, nor on several ranks one that leaves a rank without a row.

    Args:
        source: gives the batches, on every rank.
        listener: rank 0's source, which is told; None on other ranks.
        ranks: the trainer's processes; all of them take, step and ask alike.
        multiple: rows of the groups that a batch is dealt out in over ranks.
    """

    def __init__(self, source: BatchSource, listener: LossListener | None, ranks: Ranks, *, multiple: int = 1) -> None:
        self._source = source
        self._listener = listener
        self._ranks = ranks
        self._multiple = multiple
        self._pending: list[_Learnt] = []

    @classmethod
    def around(cls, source: BatchSource, first: BatchSource, ranks: Ranks, *, multiple: int = 1) -> ToldSource | None:
        """The source told what it wants to know; None on every rank where rank 0's `first` does not listen."""
        listener = listener_of(first) if ranks.is_first else None
        return cls(source, listener, ranks, multiple=multiple) if ranks.told(listener is not None) else None

    @property
    def schema(self) -> Schema:
        """Columns of the source."""
        return self._source.schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows in one pass over the source."""
        return self._source.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The source's next rows; waits for the device where they depend on losses that were not told yet.

        Raises:
            NotEnoughData: a stream stayed silent.
        """
        if self._ranks.told(self._listener is not None and self._listener.wants_losses):
            self._tell()
        return self._source.take(size)

    def after_step(self, batch: MiniBatch, report: StepReport) -> None:
        """Keep the losses of the batch taken last; costs a list entry, and nothing waits for the device."""
        if not report.units or -(-len(batch) // self._multiple) < self._ranks.count:
            return
        number = self._listener.batches - 1 if self._listener is not None else 0
        self._pending.append(_Learnt(number, len(batch), [part.values["loss"] for part in report.seen]))

    def position(self) -> SourcePosition:
        """Where the next `take` starts; this waits for the device."""
        self._tell()
        return self._source.position()

    def seek(self, position: SourcePosition) -> None:
        """Go to a position of the source; what was learnt since it was taken there is forgotten."""
        self._pending.clear()
        self._source.seek(position)

    def close(self) -> None:
        """Release the source."""
        self._source.close()

    def _tell(self) -> None:
        if not self._pending:
            return
        learnt, self._pending = self._pending, []
        losses = torch.cat([part for one in learnt for part in one.losses]).float().cpu().numpy()
        if self._ranks.count > 1:
            losses = self._gathered(learnt, losses)
        start = 0
        for one in learnt:
            if self._listener is not None:
                self._listener.hear(one.batch, losses[start : start + one.rows])
            start += one.rows

    def _gathered(self, learnt: Sequence[_Learnt], own: NDArray[np.float32]) -> NDArray[np.float32]:
        """The losses of all rows of these batches, of which each rank brings its own."""
        edges = np.cumsum([0, *(one.rows for one in learnt)])
        here = np.concatenate([edge + self._rows_here(one.rows) for edge, one in zip(edges, learnt, strict=False)])
        values = np.zeros(edges[-1])
        values[here] = own
        total = self._ranks.total({f"{number:09}": value for number, value in enumerate(values.tolist())})
        return np.array(list(total.values()), np.float32)

    def _rows_here(self, rows: int) -> NDArray[np.int64]:
        shard = self._ranks.shard(MiniBatch({"row": np.arange(rows)}), multiple=self._multiple)
        return shard.columns["row"]
