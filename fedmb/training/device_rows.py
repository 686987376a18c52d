"""Rows in slots of a device's memory; no order and no policy.

Small rows lie as one aligned struct each, as in `fedmb.replay.row_layout`, so that a batch is gathered by one
`index_select` and comes out as one block, its columns views of it. Columns of large rows lie by themselves. Either way
what is gathered are words as wide as divide a row, whatever the dtypes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.given_rows import GivenRows
from fedmb.replay.row_layout import RowLayout
from fedmb.training.device_ids import stretches

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.replay.row_layout import Choice, Kind

Rows: TypeAlias = Mapping[str, NDArray[Any] | Tensor]
"""Columns of rows, all of them arrays of the host or all of them tensors."""

WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class _Place(NamedTuple):
    """Where a column lies in a row of its block."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class _Block:
    """Rows of one struct, `(capacity, words)`, and the columns in it."""

    def __init__(self, form: np.dtype[np.void], capacity: int, device: torch.device) -> None:
        self.form = form
        size = next(size for size in WORDS if form.itemsize % size == 0)
        self.words = torch.zeros((capacity, form.itemsize // size), dtype=WORDS[size], device=device)
        self.names = form.names or ()
        self._places = {name: _place(form, name) for name in self.names}

    def columns(self, words: Tensor) -> dict[str, Tensor]:
        """Views of rows of this block, `(rows, ...)` each."""
        data = words.view(torch.uint8)
        found = {}
        for name, (start, stop, dtype, shape) in self._places.items():
            if start == stop:
                found[name] = data.new_empty((len(data), *shape), dtype=dtype)  # no bytes, nothing to view
                continue
            flat = data[:, start:stop].view(dtype)
            found[name] = flat.view(len(flat), *shape) if shape else flat[:, 0]
        return found

    def copy_in(self, start: int, columns: Columns) -> None:
        """Copy rows of the host in; one copy to the device, which need not be over at return."""
        count = len(columns[self.names[0]])
        pinned = self.words.device.type == "cuda"  # torch keeps the memory until the copy is over, and uses it again
        words = torch.empty((count, self.words.shape[1]), dtype=self.words.dtype, pin_memory=pinned)
        structs = words.numpy().view(self.form)[:, 0]
        for name in self.names:
            structs[name] = columns[name]
        self.words[start : start + count].copy_(words, non_blocking=True)


class DeviceRows:
    """Fixed columns for `capacity` rows.

    Args:
        schema: columns of every row.
        capacity: rows.
        device: where they lie.
        layout: as `RowLayout` has it; "auto" fits most.

    Raises:
        SettingsError: capacity is below 1, there is no column, torch does not know a column's dtype, or no such layout.
    """

    def __init__(self, schema: Schema, capacity: int, device: torch.device, *, layout: Choice = "auto") -> None:
        placed = RowLayout(schema, capacity, layout)
        self.schema = placed.schema
        self._capacity = capacity
        self._dtypes = {name: _dtype(name, column.dtype) for name, column in self.schema.items()}
        whole = placed.row_dtype
        self.layout: Kind = placed.kind if _is_aligned(whole) else "columns"
        forms = [whole] if self.layout == "rows" else [_alone(whole, name) for name in self.schema]
        self._blocks = [_Block(form, capacity, device) for form in forms]
        self._views = self._ordered([block.words for block in self._blocks])
        self._given = GivenRows(self.schema)
        self.row_bytes = placed.row_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows, where they lie."""
        return sum(block.words.nbytes for block in self._blocks)

    def count(self, columns: Rows) -> int:
        """Rows in `columns`: arrays of the host, or tensors.

        Raises:
            ShapeError: they do not follow the schema, or are some of this and some of that.
        """
        if not any(isinstance(column, Tensor) for column in columns.values()):
            return self._given.count(cast("Columns", columns))
        found = {name: _form(column) for name, column in columns.items()}
        wanted = {name: (self._dtypes[name], tuple(column.shape)) for name, column in self.schema.items()}
        if found != wanted:
            raise ShapeError(f"columns must be tensors of {wanted}, all of them or none, got {found}; convert them")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ShapeError(f"columns must be of equal length, got lengths {sorted(lengths)}")
        return lengths.pop()

    def write(self, number: int, columns: Rows, count: int) -> None:
        """Copy `count` rows in, which `count()` has seen, into slots `number` % capacity and on, round the end."""
        for start, first, stop in stretches(number, count, self._capacity):
            rows = slice(first, stop)
            if isinstance(next(iter(columns.values())), Tensor):
                for name, target in self._views.items():
                    target[start : start + stop - first].copy_(cast("Tensor", columns[name])[rows], non_blocking=True)
                continue
            for block in self._blocks:
                block.copy_in(start, {name: cast("NDArray[Any]", columns[name])[rows] for name in block.names})

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Fresh columns of these rows, `(len(slots), ...)`; in a layout by rows they are views of one fresh block."""
        return self._ordered([block.words.index_select(0, slots) for block in self._blocks])

    def stored(self, first: int, count: int) -> dict[str, NDArray[Any]]:
        """The rows in the first `count` slots, from slot `first` on and round, as fresh arrays of the host."""
        found: dict[str, NDArray[Any]] = {}
        for block in self._blocks:
            structs = np.roll(block.words[:count].cpu().numpy().view(block.form)[:, 0], -first)
            found |= {name: structs[name].copy() for name in block.names}
        return {name: found[name] for name in self.schema}

    def _ordered(self, words: list[Tensor]) -> dict[str, Tensor]:
        """Columns of rows of all blocks, in the order of the schema."""
        found: dict[str, Tensor] = {}
        for block, rows in zip(self._blocks, words, strict=True):
            found |= block.columns(rows)
        return {name: found[name] for name in self.schema}


class ClosedRows(DeviceRows):
    """What a closed ring holds."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError("a ring must be open to be used, this one was closed; make another")


def _dtype(name: str, dtype: str) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise SettingsError(
            f"a column must be of a dtype that torch has, got {name!r} of {dtype}; convert it"
        ) from error


def _place(form: np.dtype[np.void], name: str) -> _Place:
    assert form.fields is not None, "the struct of a row has columns"
    field, start = form.fields[name][:2]
    return _Place(start, start + field.itemsize, _dtype(name, field.base.name), field.shape)


def _is_aligned(form: np.dtype[np.void]) -> bool:
    """Whether torch can view every column: it wants each at a multiple of its item's size, which complex ones break."""
    assert form.fields is not None, "the struct of a row has columns"
    fields = [(field[0].base.itemsize, field[1]) for field in form.fields.values()]
    return all(start % size == 0 and form.itemsize % size == 0 for size, start in fields)


def _alone(form: np.dtype[np.void], name: str) -> np.dtype[np.void]:
    """The struct that has this column only."""
    assert form.fields is not None, "the struct of a row has columns"
    field = form.fields[name][0]
    return np.dtype({"names": [name], "formats": [field], "offsets": [0], "itemsize": max(1, field.itemsize)})


def _form(column: Any) -> Any:  # whatever a caller passed
    return (column.dtype, tuple(column.shape[1:])) if isinstance(column, Tensor) and column.ndim else type(column)
