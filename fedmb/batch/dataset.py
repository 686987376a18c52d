"""A map-style dataset, torch's included, as a supply of mini-batches."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.batch.collate import stacked
from fedmb.batch.minibatch import MiniBatch, Schema, check_columns, schema_of
from fedmb.batch.table import TableSource, Tail
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmb.batch.source import SourcePosition


class MapDataset(Protocol):
    """Anything with a length and rows by number; `__getitems__`, torch's batched fetch, is used where it exists."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...  # a row is whatever the collate function understands


class DatasetSource:
    """Mini-batches from a map-style dataset, in the order that a `TableSource` of its rows has; a `BatchSource`.

    A row of a dataset in memory costs a Python call here and none in a `TableSource`: load what fits as a table. A
    dataset whose rows are random (augmentation) gives other numbers after a resume unless it draws by row number.

    Args:
        dataset: `len(dataset)` rows, `dataset[i]` one of them.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`.
        names: names of the places of rows that are tuples; see `fedmb.batch.collate.columns_of`.
        collate: makes a batch of a list of rows; by default `stacked` under `names`. For rows of different lengths,
            `functools.partial(padded, ragged=["tokens"])`.
        schema: columns of every batch; by default those of a batch of row 0, which is read once for that.

    Raises:
        SettingsError: there is no row, or seed or tail are out of range.
        ShapeError: row 0 cannot be made a batch.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        seed: int,
        client: str | int,
        tail: Tail = "balance",
        names: Sequence[str] | None = None,
        collate: Callable[[Sequence[Any]], MiniBatch] | None = None,
        schema: Schema | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise SettingsError("a dataset must hold at least one row, got none; leave this client out of the run")
        self._dataset = dataset
        self._collate = collate or functools.partial(stacked, names=names)
        self._order = TableSource({"row": np.arange(len(dataset))}, seed=seed, client=client, tail=tail)
        self._schema = schema or schema_of(self._collate(self._rows([0])).columns)

    @property
    def schema(self) -> Schema:
        """Columns of every batch."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows of the dataset."""
        return self._order.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The next rows of this epoch, at most `size` of them.

        Raises:
            ValueError: `size` is below 1.
            SettingsError: `size` exceeds the dataset under tail "drop".
            ShapeError: rows do not follow the schema; the position stays before them.
        """
        before = self._order.position()
        rows = self._order.take(size).columns["row"]
        try:
            batch = self._collate(self._rows(rows.tolist()))
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
            ValueError: it has other keys, or the cursor lies outside the dataset.
        """
        self._order.seek(position)

    def close(self) -> None:
        """Nothing to release: the dataset is its maker's."""

    def _rows(self, numbers: list[int]) -> Sequence[Any]:
        fetch = getattr(self._dataset, "__getitems__", None)
        rows: Sequence[Any] = fetch(numbers) if fetch else [self._dataset[number] for number in numbers]
        return rows
