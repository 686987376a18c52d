"""What a table is given, looked at before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import check_columns
from fedmb.errors import ShapeError
from fedmb.replay.row_writer import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

LARGEST_PRIORITY = 1e100
"""Above any loss; to the power of a sampler's alpha, and summed, it stays finite."""


class GivenRows:
    """Looks at the columns of one schema as `check_columns` does, in a third of its time.

    Args:
        schema: columns of a row.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._wanted = [(name, np.dtype(column.dtype), tuple(column.shape)) for name, column in schema.items()]

    def count(self, columns: Columns) -> int:
        """Rows in `columns`.

        Raises:
            ShapeError: they do not follow the schema.
        """
        if len(columns) != len(self._wanted):
            return check_columns(columns, self._schema)
        length = -1
        try:
            for name, dtype, shape in self._wanted:
                column = columns[name]
                if column.dtype != dtype or column.shape[1:] != shape or len(column) != length >= 0:
                    return check_columns(columns, self._schema)
                length = len(column)
        except (KeyError, TypeError):
            return check_columns(columns, self._schema)
        return length

    def columns(self, row: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Columns of one row, whose values are in the order of the schema.

        Raises:
            ShapeError: values do not follow the schema.
        """
        arrays = checked(row, self._schema)
        return {name: array.astype(dtype)[None] for (name, dtype, _), array in zip(self._wanted, arrays, strict=True)}


def checked_priorities(priorities: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Priorities as float64, `(count,)`.

    Raises:
        ShapeError: there are not so many.
        ValueError: one is negative, not finite or beyond any use.
    """
    given = np.asarray(priorities, np.float64)
    if given.shape != (count,):
        raise ShapeError(f"there must be a priority for each of {count} rows, got shape {given.shape}")
    if count and not (given.min() >= 0 and given.max() <= LARGEST_PRIORITY):  # also where one is nan
        wrong = given[~((given >= 0) & (given <= LARGEST_PRIORITY))][0]
        raise ValueError(f"priorities must be 0 to {LARGEST_PRIORITY:g}, got {wrong} among {count}; clip them first")
    return given
