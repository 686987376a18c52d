"""A table at rest as an endless, shuffled supply of mini-batches.

The whole state is (epoch, cursor): the order of an epoch's rows follows from (seed, client, epoch), so a source that
seeks to a position gives the rows that the uninterrupted one would have given, in another process as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from fedmb.batch.minibatch import Columns, MiniBatch, Schema, check_columns, schema_of
from fedmb.errors import SettingsError, ShapeError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedmb.batch.source import SourcePosition
    from fedmb.ledger import Spans

Tail: TypeAlias = Literal["balance", "keep", "drop"]
"""What happens to the rows that a constant batch size leaves over at the end of an epoch."""


_NO_SPAN: Spans = {}  # shared: a batch never changes its span


def batch_rows(left: int, size: int, tail: Tail) -> int:
    """Rows of the next batch when `left` rows of the epoch remain and `size` is the most a batch may hold.

    "balance" splits what is left into ceil(left / size) batches that differ by at most one row, larger ones first,
    so at a constant size the batches are those of `numpy.array_split`; "keep" ends with one short batch; "drop"
    answers 0 where a full batch no longer fits.
    """
    if tail == "drop":
        return size if left >= size else 0
    if tail == "keep":
        return min(left, size)
    num_batches = -(-left // size)
    return -(-left // num_batches)


class TableSource:
    """Mini-batches from columns in memory, shuffled anew in every epoch; a `BatchSource`.

    Columns are kept by reference where they are C-contiguous in native byte order, copied once otherwise; the caller
    does not change them afterwards. Every batch is a fresh copy of its rows. An epoch's order takes 8 bytes a row.
    A batch never crosses the end of an epoch, and its size may change from call to call.

    Args:
        columns: arrays of equal length, first axis examples.
        seed: the run's seed.
        client: name or number of this site; another client draws another order from the same seed.
        tail: "balance" (every row once per epoch, batches level), "keep" (the last batch short) or "drop" (rows
            that fill no batch are left out of this epoch).

    Raises:
        SettingsError: there is no row, or seed or tail are out of range.
        ShapeError: columns differ in length, or one holds Python objects.

    Source: per-client keys instead of `seed + epoch`, see `fedmb.seeding`; level tails, `numpy.array_split`.
    """

    def __init__(self, columns: Columns, *, seed: int, client: str | int, tail: Tail = "balance") -> None:
        if tail not in get_args(Tail):
            raise SettingsError(f"tail must be one of {', '.join(get_args(Tail))}, got {tail!r}", key="tail")
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        self._schema = schema_of(columns)
        self._rows = check_columns(columns, self._schema)
        if self._rows == 0:
            raise SettingsError("a table must hold at least one row, got none; leave this client out of the run")
        self._columns = {name: gatherable(name, array) for name, array in columns.items()}
        # Bound once: at 32 rows a batch, looking the methods up would cost as much as copying the rows.
        self._gather = [(name, row_gatherer(array)) for name, array in self._columns.items()]
        self._tail: Tail = tail
        self._seed = int(seed)
        # NumPy integers print differently from Python's, and keys are hashed as printed.
        self._client = client if isinstance(client, str) else int(client)
        self._epoch = 0
        self._cursor = 0
        self._order = np.empty(0, np.int64)
        self._order_epoch = -1

    @property
    def schema(self) -> Schema:
        """Columns of the table."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows of the table, also under "drop", which leaves some of them out."""
        return self._rows

    def take(self, size: int) -> MiniBatch:
        """The next rows of this epoch as fresh arrays, at most `size` of them.

        Raises:
            ValueError: `size` is below 1.
            SettingsError: `size` exceeds the table under "drop", which would drop every row for ever.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}")
        if self._tail == "drop" and size > self._rows:
            raise SettingsError(
                f"a batch must fit into a table of {self._rows} rows under tail 'drop', got size {size}; lower the "
                "size or use tail 'balance'",
                key="tail",
            )
        cursor = self._cursor
        count = batch_rows(self._rows - cursor, size, self._tail)
        if count == 0:
            self._epoch, cursor, count = self._epoch + 1, 0, size
        order = self._order if self._order_epoch == self._epoch else self._epoch_order()
        end = cursor + count
        rows = order[cursor:end]
        columns = {}
        for name, gather in self._gather:  # a loop and no comprehension: before Python 3.12 that is a call of its own
            columns[name] = gather(rows, 0)
        batch = MiniBatch(columns, None, None, _NO_SPAN, {"private": count})
        if end == self._rows:
            self._epoch, self._cursor = self._epoch + 1, 0
        else:
            self._cursor = end
        return batch

    def position(self) -> SourcePosition:
        """Epoch and rows of it already given: `{"epoch": 2, "cursor": 96}`."""
        return {"epoch": self._epoch, "cursor": self._cursor}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: it has other keys, or the cursor lies outside the table.
        """
        if not position:
            self._go(0, 0)
            return
        numbers = [position.get("epoch"), position.get("cursor")]
        valid = position.keys() == {"epoch", "cursor"} and all(type(n) is int and n >= 0 for n in numbers)
        if not valid or position["cursor"] > self._rows:
            raise ValueError(
                f"a table's position must be {{'epoch': 0.., 'cursor': 0..{self._rows}}}, got {position!r}; it belongs "
                "to another source or to another version of this table"
            )
        self._go(position["epoch"], position["cursor"])

    def close(self) -> None:
        """Nothing to release: a table holds no file and no thread."""

    def _go(self, epoch: int, cursor: int) -> None:
        self._epoch, self._cursor = (epoch + 1, 0) if cursor == self._rows else (epoch, cursor)

    def _epoch_order(self) -> NDArray[np.int64]:
        self._order = generator(self._seed, self._client, self._epoch, "order").permutation(self._rows)
        self._order_epoch = self._epoch
        return self._order


def gatherable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """`array` as rows are gathered from it without copying the whole of it at each call."""
    if array.dtype.hasobject:
        raise ShapeError(f"column {name!r} must hold numbers, got Python objects; convert it to a fixed dtype")
    return np.require(array, array.dtype.newbyteorder("="), ["C"])


def row_gatherer(array: NDArray[Any]) -> Callable[[NDArray[np.int64], int], NDArray[Any]]:
    """A function from row numbers and axis 0 to fresh rows of `array`."""
    if array.flags.aligned:
        return array.take
    # A member of a mapped .npz starts at any byte: `take` would copy the whole column first, indexing does not.
    return lambda rows, _: array[rows]
