"""Mini-batches of rows of similar length, so that little of a batch is padding.

shuffle the epoch -> cut it into pools of `pool` batches -> sort each pool by length -> batch -> shuffle the batches

At rest such rows may lie in a table like any other, padded to one length: `tokens` of shape `(examples, longest, ...)`
beside a bool `tokens_mask` of shape `(examples, longest)`, False from the row's end on. `unpadded` takes the padding
off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from fedmb.batch.collate import ANY_LENGTH, MASK_SUFFIX, Ragged, padded_names
from fedmb.batch.minibatch import Column, Columns, MiniBatch, Schema, check_columns, schema_of
from fedmb.batch.table import TableSource, batch_rows
from fedmb.errors import SettingsError, ShapeError
from fedmb.section import Section
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.batch.source import SourcePosition

POSITION_KEYS = {"epoch", "start", "cuts"}


class Bucketing(Section):
    """Mini-batches of rows of similar length; units count tokens, so that a row weighs as much as it is long."""

    by: str | None = None
    """Padded column whose lengths sort and weigh the rows; left out, the table's first."""
    pool: int = Field(default=32, ge=1)
    """Batches whose rows are sorted together; 1 is plain shuffling, and the more, the less padding."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in a batch, padding included; left out, the number of rows alone says how large a batch is."""

    def source(self, columns: Columns, *, seed: int, client: str) -> Buckets:
        """Mini-batches of a padded table, as the module describes it; other columns come along.

        Raises:
            SettingsError: no column is padded, or not that of `by`, or a row alone exceeds `max_tokens`.
            ShapeError: a row goes on behind its padding.
        """
        names = padded_names(schema_of(columns))
        if not names or self.by not in {None, *names}:
            raise SettingsError(
                f"buckets need a padded column with a mask{f', {self.by} and {self.by}_mask' if self.by else ''}, this "
                f"table has {', '.join(names) or 'none'} of {', '.join(columns)}; choose rows.buckets.by, or leave "
                "rows.buckets out",
                key="rows.buckets",
            )
        first = self.by or names[0]
        ragged = {name: unpadded(columns, name) for name in (first, *(name for name in names if name != first))}
        masks = {name + MASK_SUFFIX for name in names}
        fixed = {name: array for name, array in columns.items() if name not in masks and name not in ragged}
        return Buckets(ragged, fixed, pool=self.pool, max_tokens=self.max_tokens, seed=seed, client=client)


class Buckets:
    """Padded mini-batches of rows of similar length, each row once per epoch; a `BatchSource`.

    Every ragged column `name` comes padded to the longest row of its batch, with a bool column `name_mask`; units
    count the tokens of the first ragged column, so a loss that is the mean over a row's tokens learns the same as
    without padding (see `fedmb.batch.collate`). Batches of a pool and pools of an epoch are level. The size may
    change from call to call; the rest of a pool is then cut anew.

    Args:
        ragged: columns of rows of different lengths; the first one's length sorts the rows.
        columns: further columns of as many rows, such as labels.
        pool: batches in a pool; 1 is plain shuffling, and the more, the less padding and the less chance in a batch.
        max_tokens: most tokens in a batch, padding included, by the first ragged column; batches then hold fewer rows
            the longer these are.
        seed: the run's seed.
        client: name or number of this site.

    Raises:
        SettingsError: a number is out of range, or a row alone exceeds `max_tokens`.
        ShapeError: columns differ in length, or there is none.

    Source: pools as in torchtext's BucketIterator; token budgets as in Vaswani et al. 2017, arXiv:1706.03762,
    section 5.1.
    """

    def __init__(
        self,
        ragged: Mapping[str, Ragged],
        columns: Columns | None = None,
        *,
        pool: int = 32,
        max_tokens: int | None = None,
        seed: int,
        client: str | int,
    ) -> None:
        if not ragged:
            raise ShapeError("buckets need at least one ragged column, got none; use TableSource for rows of one shape")
        if pool < 1:
            raise SettingsError(f"a pool must hold 1 batch or more, got {pool}; 1 is plain shuffling", key="pool")
        self._ragged = dict(ragged)
        self._lengths = next(iter(ragged.values())).lengths
        self._columns = {
            name: np.require(array, array.dtype.newbyteorder("="), ["C"]) for name, array in (columns or {}).items()
        }
        rows = {len(column) for column in self._ragged.values()} | {len(column) for column in self._columns.values()}
        if len(rows) > 1:
            raise ShapeError(f"columns must be of equal length, got lengths {sorted(rows)}; drop what has no row")
        longest = int(self._lengths.max(initial=0))
        if max_tokens is not None and max_tokens < longest:
            raise SettingsError(
                f"a token budget must cover the longest row, {longest} tokens, got {max_tokens}; raise it or truncate "
                "rows",
                key="max_tokens",
            )
        self._pool = pool
        self._max_tokens = max_tokens
        self._seed = int(seed)
        self._client = client
        self._order = TableSource({"row": np.arange(len(self._lengths))}, seed=seed, client=client, tail="keep")
        self._schema = _schema(self._ragged, self._columns)
        self._epoch = 0
        self._start = 0  # rows of the epoch in the pools before this one
        self._cuts: list[list[int]] = []  # [size, batches given] for each size that this pool was cut by
        self._left: list[NDArray[np.int64]] = []  # batches of the last cut, next one last

    @property
    def schema(self) -> Schema:
        """Columns of every batch; a padded axis is `ANY_LENGTH`."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows, each of which comes once per epoch."""
        return len(self._lengths)

    def take(self, size: int) -> MiniBatch:
        """A padded batch of rows of similar length, at most `size` of them.

        Raises:
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}; ask for a row")
        if not self._cuts or self._cuts[-1][0] != size:
            self._cut(size)
        rows = self._left.pop()
        self._cuts[-1][1] += 1
        if not self._left:
            self._start += self._pool_rows(self._cuts[0][0])
            self._cuts = []
            if self._start == len(self._lengths):
                self._epoch, self._start = self._epoch + 1, 0
        return self._batch(rows)

    def position(self) -> SourcePosition:
        """Epoch, rows in its earlier pools, and [size, batches given] for each size the pool was cut by."""
        return {"epoch": self._epoch, "start": self._start, "cuts": [list(cut) for cut in self._cuts]}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: it has other keys, or its numbers do not fit these rows.
        """
        before = self.position()
        try:
            self._go(position or {"epoch": 0, "start": 0, "cuts": []})
        except (ValueError, TypeError, KeyError, IndexError) as error:
            self._go(before)
            raise ValueError(
                f"a position of buckets must be {{'epoch': 0.., 'start': 0.., 'cuts': [[size, given], ...]}}, got "
                f"{position!r}; it belongs to another source or to other rows"
            ) from error

    def close(self) -> None:
        """Nothing to release: rows are in memory."""

    def _go(self, position: SourcePosition) -> None:
        numbers = [position["epoch"], position["start"], *(number for cut in position["cuts"] for number in cut)]
        if position.keys() != POSITION_KEYS or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(position)
        if position["start"] >= len(self._lengths):
            raise ValueError(position)
        self._epoch, self._start, self._cuts, self._left = position["epoch"], position["start"], [], []
        for size, given in position["cuts"]:
            if size < 1:
                raise ValueError(position)
            self._cut(size)
            if not 0 < given < len(self._left):
                raise ValueError(position)
            del self._left[-given:]
            self._cuts[-1][1] = given

    def _pool_rows(self, size: int) -> int:
        return batch_rows(len(self._lengths) - self._start, self._pool * size, "balance")

    def _cut(self, size: int) -> None:
        """Sort what is left of the pool, or a new one, into batches of at most `size`, in random order."""
        if self._cuts:
            rows = np.concatenate(self._left)
        else:
            self._order.seek({"epoch": self._epoch, "cursor": self._start})
            rows = self._order.take(self._pool_rows(size)).columns["row"]
        random = generator(self._seed, self._client, self._epoch, self._start, len(self._cuts), "buckets")
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]  # stable: rows of one length stay shuffled
        batches = np.split(rows, self._bounds(self._lengths[rows], size))
        self._left = [batches[place] for place in random.permutation(len(batches))]
        self._cuts.append([size, 0])

    def _bounds(self, lengths: NDArray[np.int64], size: int) -> list[int]:
        """Where sorted rows of these lengths are cut into batches."""
        if self._max_tokens is None:
            num_batches = -(-len(lengths) // size)
            level, longer = divmod(len(lengths), num_batches)
            return [place * level + min(place, longer) for place in range(1, num_batches)]
        bounds, first = [], 0
        for place, length in enumerate(lengths.tolist()):  # sorted: the row at hand is the longest of its batch
            if place > first and (place - first == size or (place - first + 1) * length > self._max_tokens):
                bounds.append(place)
                first = place
        return bounds

    def _batch(self, rows: NDArray[np.int64]) -> MiniBatch:
        columns: dict[str, NDArray[Any]] = {}
        for name, column in self._ragged.items():
            columns[name], columns[name + MASK_SUFFIX] = column.padded(rows)
        columns |= {name: column.take(rows, axis=0) for name, column in self._columns.items()}
        return MiniBatch(columns, units=self._lengths[rows].astype(np.float32), origins={"private": len(rows)})


def unpadded(columns: Columns, name: str) -> Ragged:
    """The rows of a padded column without their padding, copied.

    Raises:
        ShapeError: a row goes on behind its padding.
    """
    values, mask = columns[name], columns[name + MASK_SUFFIX]
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise ShapeError(
            f"padding must stand at a row's end, column {name!r} goes on behind it in row "
            f"{int(np.flatnonzero((mask[:, 1:] > mask[:, :-1]).any(axis=1))[0])}; shift the tokens to the left"
        )
    return Ragged(values[mask], np.concatenate([np.zeros(1, np.int64), np.cumsum(mask.sum(axis=1, dtype=np.int64))]))


def _schema(ragged: Mapping[str, Ragged], columns: Columns) -> dict[str, Column]:
    schema: dict[str, Column] = {}
    for name, column in ragged.items():
        schema[name] = Column(column.values.dtype.name, (ANY_LENGTH, *column.values.shape[1:]))
        schema[name + MASK_SUFFIX] = Column("bool", (ANY_LENGTH,))
    fixed = schema_of(columns)
    if clash := sorted(schema.keys() & fixed.keys()):
        raise ShapeError(f"padded columns and their masks need names of their own, got {clash} twice; rename them")
    check_columns(columns, fixed)
    return schema | fixed
