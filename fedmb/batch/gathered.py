"""Rows that are made when they are drawn, such as fetched from a dataset or gathered from a graph.

Row numbers come in the order and with the tails of a `TableSource`; `gather(numbers, position behind them)` makes a
batch of them, and a row that breaks leaves the position where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedmb.batch.minibatch import MiniBatch, Schema, check_columns
from fedmb.batch.source import SourcePosition
from fedmb.batch.table import TableSource, Tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

Gather: TypeAlias = Callable[["NDArray[np.int64]", SourcePosition], MiniBatch]
"""Makes a batch of row numbers `(examples,)`; the position behind them names the draw, for rows that are random."""


class GatheredSource:
    """Mini-batches that `gather` makes of row numbers; a `BatchSource`.

    Args:
        numbers: row numbers that this client has, `(rows,)`, each of which comes once per epoch.
        gather: makes a batch of some of them.
        schema: columns of every batch.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`.

    Raises:
        SettingsError: there is no number, or seed or tail are out of range.
    """

    def __init__(
        self,
        numbers: NDArray[Any],
        gather: Gather,
        schema: Schema,
        *,
        seed: int,
        client: str | int,
        tail: Tail = "balance",
    ) -> None:
        self._gather = gather
        self._schema = schema
        self._order = TableSource({"row": np.asarray(numbers, np.int64)}, seed=seed, client=client, tail=tail)

    @property
    def schema(self) -> Schema:
        """Columns of every batch."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Row numbers."""
        return self._order.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The next rows of this epoch, at most `size` of them.

        Raises:
            ValueError: `size` is below 1.
            SettingsError: `size` exceeds the rows under tail "drop".
            ShapeError: rows do not follow the schema; the position stays before them.
        """
        before = self._order.position()
        numbers = self._order.take(size).columns["row"]
        try:
            batch = self._gather(numbers, self._order.position())
            check_columns(batch.columns, self._schema)
        except BaseException:
            self._order.seek(before)
            raise
        return MiniBatch(batch.columns, mask=batch.mask, units=batch.units, origins={"private": len(batch)})

    def position(self) -> SourcePosition:
        """Epoch and rows of it already given, as a `TableSource` has."""
        return self._order.position()

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: it has other keys, or the cursor lies outside the rows.
        """
        self._order.seek(position)

    def close(self) -> None:
        """Nothing to release: what is gathered from is its maker's."""
