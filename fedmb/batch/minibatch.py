"""A mini-batch: columns of equal length.

Representation, fixed once for the whole library: a table, a mini-batch and a replay ring are all a mapping from
column name to a NumPy array whose first axis counts examples; `column[i]` belongs to example `i`. Beside the columns
a mini-batch may carry

- `mask`, bool `(examples,)`: False marks padding that takes part in no sum;
- `units`, float32 `(examples,)`: how much each example weighs in the gradient (rows, tokens, importance weights);
- `span`: which stretch of which stream partitions the rows came from, empty for rows at rest and replayed rows;
- `origins`: how many rows came from "private" tables, from the "stream" and from "replay";
- `expected`: how many rows were to be expected, where chance decides how many come, and none may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmb.errors import ShapeError
from fedmb.ledger import Spans, joined

Columns: TypeAlias = Mapping[str, NDArray[Any]]


class Column(NamedTuple):
    """What one column holds: dtype and the shape of one example."""

    dtype: str
    shape: tuple[int, ...] = ()


Schema: TypeAlias = Mapping[str, Column]


def schema_of(columns: Columns) -> dict[str, Column]:
    """The schema that `columns` follow."""
    return {name: Column(array.dtype.name, array.shape[1:]) for name, array in columns.items()}


def check_columns(columns: Columns, schema: Schema) -> int:
    """Number of examples in `columns`, which must follow `schema` and be of equal length.

    Raises:
        ShapeError: a column is missing, unknown, of another dtype or shape, or of another length.
    """
    if columns.keys() != schema.keys():
        raise ShapeError(f"columns must be {sorted(schema)}, got {sorted(columns)}; rename or drop the others")
    lengths = set()
    for name, array in columns.items():
        if not hasattr(array, "dtype"):
            raise ShapeError(f"column {name!r} must be an array, got {type(array).__name__}; pass numpy.asarray of it")
        found = Column(_name(array.dtype), array.shape[1:])
        if array.ndim == 0 or found != schema[name]:
            wanted = schema[name]
            raise ShapeError(
                f"column {name!r} must hold {wanted.dtype} of shape (examples, {', '.join(map(str, wanted.shape))}), "
                f"got {array.dtype.name} of shape {array.shape}; convert it before it enters the source"
            )
        lengths.add(len(array))
    if len(lengths) > 1:
        raise ShapeError(f"columns must be of equal length, got lengths {sorted(lengths)}")
    return lengths.pop() if lengths else 0


@lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str:
    """Name of a dtype, which NumPy makes up anew each time: 2 us a column, more than storing it."""
    return dtype.name


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Columns of equal length, with mask, units, span and origins as the module describes them."""

    columns: Columns
    mask: NDArray[np.bool_] | None = None
    units: NDArray[np.float32] | None = None
    span: Spans = field(default_factory=dict)
    origins: Mapping[str, int] = field(default_factory=dict)
    expected: int | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise ShapeError("a mini-batch needs at least one column, got none")
        rows, *others = map(len, self.columns.values())
        for length in others:
            if length != rows:
                self._refuse_lengths()
        if (self.mask is not None and len(self.mask) != rows) or (self.units is not None and len(self.units) != rows):
            self._refuse_lengths()

    def _refuse_lengths(self) -> NoReturn:
        lengths = {name: len(column) for name, column in self.columns.items()}
        lengths |= {name: len(one) for name in ("mask", "units") if (one := getattr(self, name)) is not None}
        raise ShapeError(f"columns, mask and units must be of equal length, got {lengths}; cut them alike")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def counted(self) -> int:
        """Rows that the step counts as, in its divisor and on every clock: those expected, where chance decides."""
        return len(self) if self.expected is None else self.expected

    def effective_units(self) -> NDArray[np.float32]:
        """Weight of each example in the gradient, `(examples,)`: its units, 1 by default, and 0 where masked."""
        units = np.ones(len(self), np.float32) if self.units is None else self.units
        return units if self.mask is None else np.where(self.mask, units, np.float32(0))

    def rows(self, start: int, stop: int) -> MiniBatch:
        """Rows `start` to `stop` as views, without span, origins and expected rows: they belong to the whole batch."""
        return MiniBatch(
            {name: array[start:stop] for name, array in self.columns.items()},
            mask=None if self.mask is None else self.mask[start:stop],
            units=None if self.units is None else self.units[start:stop],
        )


def concatenated(parts: Sequence[MiniBatch]) -> MiniBatch:
    """One mini-batch of all rows of `parts`, in order; spans are joined, origins added up.

    Raises:
        ShapeError: there is no part, or the parts' columns differ.
        StaleUpdate: spans of one partition do not follow each other.
    """
    if not parts:
        raise ShapeError("nothing to concatenate, got no mini-batch")
    if len(parts) == 1:
        return parts[0]
    first = schema_of(parts[0].columns)
    for part in parts[1:]:
        check_columns(part.columns, first)
    origins: dict[str, int] = {}
    span: Spans = {}
    for part in parts:
        span = joined(span, part.span)
        for origin, count in part.origins.items():
            origins[origin] = origins.get(origin, 0) + count
    weighted = any(part.units is not None or part.mask is not None for part in parts)
    return MiniBatch(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in first},
        units=np.concatenate([part.effective_units() for part in parts]) if weighted else None,
        span=span,
        origins=origins,
    )
