"""Columns whose rows differ in length: a ring of elements beside the rows, and where each row's elements lie in it.

A row's elements follow each other, over the ring's end where they must. Elements are numbered from 0 without end;
number `n` lies in place `n % max_items`. The oldest rows make room, so they leave when the rows or the elements run
out, whichever comes first. A batch of such a column is a `fedmb.batch.collate.Ragged`: values and offsets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fedmb.batch.collate import ANY_LENGTH, MASK_SUFFIX, Ragged
from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptRing, SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class RaggedColumn(Column):
    """A column of a ring whose rows are `(any length, *shape)`.

    Args:
        dtype: of the elements.
        max_items: elements that the ring keeps for all of its rows together; no row is longer.
        shape: of one element.

    Raises:
        SettingsError: `max_items` is below 1.
    """

    max_items: int

    def __new__(cls, dtype: str, max_items: int, shape: tuple[int, ...] = ()) -> Self:
        """A column of this dtype whose first axis has any length."""
        if max_items < 1:
            raise SettingsError(f"a ragged column must keep 1 element or more, got {max_items}", key="max_items")
        self = super().__new__(cls, dtype, (ANY_LENGTH, *shape))
        self.max_items = max_items
        return self

    def __getnewargs__(self) -> Any:  # what copying passes to __new__, which takes other arguments than a Column's
        return self.dtype, self.max_items, tuple(self.shape[1:])

    def __repr__(self) -> str:
        return f"RaggedColumn({self.dtype!r}, {self.max_items}, {tuple(self.shape[1:])})"

    @property
    def element(self) -> Column:
        """What one element holds."""
        return Column(self.dtype, tuple(self.shape[1:]))


class RaggedStore:
    """The ring of elements of one column.

    Args:
        column: what it holds.
        elements: their memory, `(max_items, *shape)`.
    """

    def __init__(self, column: RaggedColumn, elements: NDArray[Any]) -> None:
        self._column = column
        self._elements = elements

    def checked(self, name: str, values: Any) -> Ragged:  # whatever a caller calls ragged
        """Rows that this store can keep.

        Raises:
            ShapeError: they are not ragged rows of its dtype and shape, or one is longer than the store.
        """
        wanted = self._column.element
        if not isinstance(values, Ragged) or Column(values.values.dtype.name, values.values.shape[1:]) != wanted:
            found = (
                f"{values.values.dtype.name} {values.values.shape[1:]}" if isinstance(values, Ragged) else type(values)
            )
            raise ShapeError(
                f"column {name!r} must hold ragged rows of {wanted.dtype} {wanted.shape}, got {found}; make them with "
                "fedmb.batch.collate.Ragged.of(rows)"
            )
        longest = int(values.lengths.max(initial=0))
        if longest > self._column.max_items:
            raise ShapeError(
                f"a row of {name!r} must have at most the {self._column.max_items} elements that the ring keeps, got "
                f"{longest}; cut it or raise max_items"
            )
        return values

    def write(self, first: int, values: NDArray[Any]) -> None:
        """Copy elements in, the first of them under the number `first`; at most `max_items`."""
        place = first % len(self._elements)
        head = min(len(values), len(self._elements) - place)
        self._elements[place : place + head] = values[:head]
        self._elements[: len(values) - head] = values[head:]

    def read(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        """Fresh copies of the rows whose elements begin at these numbers.

        Raises:
            CorruptRing: a length is none that was written.
        """
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= len(self._elements):
            raise CorruptRing(
                f"a ragged row must have 0 to {len(self._elements)} elements, got {lengths.min()} to {lengths.max()}; "
                "delete the ring's file to begin with an empty memory"
            )
        numbers, offsets = _numbers(starts, lengths)
        return Ragged(self._elements.take(numbers % len(self._elements), axis=0), offsets)


def chosen(column: NDArray[Any] | Ragged, rows: NDArray[np.int64]) -> NDArray[Any] | Ragged:
    """These rows of a plain or ragged column, copied."""
    if not isinstance(column, Ragged):
        return column[rows]
    numbers, offsets = _numbers(column.offsets[rows], column.lengths[rows])
    return Ragged(column.values[numbers], offsets)


def joined(parts: Sequence[Any]) -> NDArray[Any] | Ragged:
    """Plain or ragged columns behind each other."""
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), _offsets(lengths))


def padded_columns(
    columns: Mapping[str, Any], *, length: int | Mapping[str, int] | None = None, fill: float = 0
) -> dict[str, NDArray[Any]]:
    """Columns in which ragged ones are padded, and each has its mask beside it, as `fedmb.batch.collate` describes.

    Args:
        columns: as a ring gathers them.
        length: pad to this length, perhaps one for each column; None pads to the longest row.
        fill: value of padding.

    Raises:
        ShapeError: a row is longer than `length`.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            width = length if length is None or isinstance(length, int) else length.get(name)
            rows = np.arange(len(column))
            found[name], found[name + MASK_SUFFIX] = column.padded(rows, length=width, fill=fill)
        else:
            found[name] = column
    return found


def _numbers(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the elements of rows that begin at `starts`, row by row, and the offsets of the rows among them."""
    offsets = _offsets(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]), offsets


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
