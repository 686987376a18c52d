"""Rows of any kind become columns: stacked where they are of one shape, padded and masked where they are not.

A padded column `tokens` of shape `(examples, longest, ...)` has a companion `tokens_mask`, bool `(examples, longest)`,
False where there is padding, and the batch's units count the tokens. So a task whose loss of an example is the mean
over its unmasked tokens learns sum(token losses) / sum(tokens), and padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import MiniBatch, Schema
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_SUFFIX = "_mask"


class AnyLength(int):
    """An axis of a schema whose length changes from batch to batch; it equals every length.

    `Column("int32", (ANY_LENGTH,))` is the column of a padded batch. Rings and codecs need fixed lengths and refuse it.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, int)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __repr__(self) -> str:
        return "ANY_LENGTH"


ANY_LENGTH = AnyLength(-1)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths, end to end: row i is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: `(tokens, ...)`.
        offsets: int64 `(rows + 1,)`, from 0 rising to the number of tokens.

    Raises:
        ShapeError: the offsets do not cut the values into rows, or the values are Python objects.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.ndim == 0 or self.values.dtype.hasobject:
            raise ShapeError(f"ragged values must be an array of numbers, got {self.values!r}; convert the rows")
        cuts = self.offsets
        valid = cuts.ndim == 1 and len(cuts) > 0 and cuts[0] == 0 and cuts[-1] == len(self.values)
        if not valid or (np.diff(cuts) < 0).any():
            raise ShapeError(
                f"offsets must rise from 0 to the {len(self.values)} tokens there are, got {cuts}; use Ragged.of(rows)"
            )

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Ragged:
        """Rows that are arrays, tensors or lists of numbers, all of one dtype and, behind the first axis, one shape.

        Raises:
            ShapeError: there is no row, or rows differ.
        """
        arrays = [array_of(row) for row in rows]
        forms = {(array.dtype.name, array.shape[1:]) for array in arrays}
        if len(forms) != 1 or arrays[0].ndim == 0:
            raise ShapeError(
                f"ragged rows must be of one dtype and shape behind their first axis, got {sorted(forms)}; convert them"
            )
        lengths = np.array([len(array) for array in arrays], np.int64)
        return cls(np.concatenate(arrays), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, `(rows,)`."""
        return np.diff(self.offsets)

    def padded(
        self, rows: NDArray[np.int64], *, length: int | None = None, fill: float = 0
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The chosen rows as an array `(examples, longest, ...)` and its mask `(examples, longest)`.

        Args:
            rows: row numbers, `(examples,)`.
            length: pad to this length; None pads to the longest of the chosen rows, at least 1.
            fill: value of padding.

        Raises:
            ShapeError: a row is longer than `length`, or the dtype cannot hold `fill`.
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        longest = int(lengths.max(initial=1))
        width = longest if length is None else length
        if longest > width:
            raise ShapeError(
                f"rows must fit into the padded length {width}, got one of {longest}; truncate or raise it"
            )
        dtype = self.values.dtype.newbyteorder("=")
        padding = np.asarray(fill).astype(dtype)
        if padding != fill and not np.isnan(fill):
            raise ShapeError(f"padding must be a value of dtype {dtype}, got {fill}; choose another fill")
        mask = np.arange(width) < lengths[:, None]
        out = np.full((len(rows), width, *self.values.shape[1:]), padding, dtype)
        out[mask] = self.values[(starts[:, None] + np.arange(width))[mask]]
        return out, mask


def padded_names(schema: Schema) -> tuple[str, ...]:
    """Columns of a schema whose rows differ in length: `tokens` where there is a bool `tokens_mask` as long."""
    return tuple(
        name
        for name, column in schema.items()
        if column.shape and (mask := schema.get(name + MASK_SUFFIX)) and mask == ("bool", column.shape[:1])
    )


def array_of(value: Any) -> NDArray[Any]:  # whatever a dataset's row holds
    """An array, number or tensor as a NumPy array.

    Arrays, NumPy numbers and tensors keep their dtype; Python's truth values become bool, integers int64, and floats
    float32, which is what models are made of. Lists are arrays of their elements under the same rules.

    Raises:
        ShapeError: it is none of these.
    """
    if isinstance(value, (np.ndarray, np.generic)):  # half the time of a union, paid for every value
        array = np.asarray(value)
    elif hasattr(value, "numpy"):  # a tensor, of whichever framework
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value.numpy())
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"a value must be numbers of one shape, got {value!r}; pad or convert it") from error
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"a value must be numbers, got {type(value).__name__} {value!r}; encode it as numbers")
    return array


def columns_of(rows: Sequence[Any], names: Sequence[str] | None = None) -> dict[str, list[NDArray[Any]]]:
    """The values of each column, one array a row.

    Args:
        rows: mappings from column to value; or tuples, or single values, which `names` names.
        names: names of a tuple's places; of mappings, the columns to keep.

    Raises:
        ShapeError: rows are unnamed or differ in their columns.
    """
    first = rows[0]
    if isinstance(first, Mapping):
        keys = list(first) if names is None else list(names)
        if any(not set(keys) <= row.keys() for row in rows):
            raise ShapeError(
                f"every row must have the columns {keys}, got one of {sorted(map(str, first))}; rename them"
            )
        return {key: [array_of(row[key]) for row in rows] for key in keys}
    if not isinstance(first, tuple | list):
        rows = [(row,) for row in rows]
    if names is None or any(len(row) != len(names) for row in rows):
        raise ShapeError(
            f"rows that are no mappings need a name for each place, got names {names}; pass names=['x', 'y']"
        )
    return {name: [array_of(row[place]) for row in rows] for place, name in enumerate(names)}


def stacked(rows: Sequence[Any], *, names: Sequence[str] | None = None) -> MiniBatch:
    """A batch of rows whose values are of one shape in each column, see `columns_of`.

    Raises:
        ShapeError: values of a column differ in shape or dtype.
    """
    return MiniBatch({name: _stacked(name, values) for name, values in columns_of(rows, names).items()})


def padded(
    rows: Sequence[Any],
    *,
    ragged: Sequence[str],
    names: Sequence[str] | None = None,
    length: int | Mapping[str, int] | None = None,
    fill: float = 0,
) -> MiniBatch:
    """A batch of rows whose `ragged` columns differ in length: padded and masked as the module describes.

    Units are the tokens of the first ragged column. For arguments see `columns_of` and `Ragged.padded`; `length` may
    be one for each ragged column.

    Raises:
        ShapeError: a ragged column is missing, or its rows differ in more than their length.
    """
    values = columns_of(rows, names)
    if not ragged or not set(ragged) <= values.keys():
        raise ShapeError(f"ragged columns must be some of {sorted(values)}, got {list(ragged)}; rename them")
    columns, every = {}, np.arange(len(rows))
    for name, arrays in values.items():
        if name in ragged:
            width = length.get(name) if isinstance(length, Mapping) else length
            columns[name], columns[name + MASK_SUFFIX] = Ragged.of(arrays).padded(every, length=width, fill=fill)
        else:
            columns[name] = _stacked(name, arrays)
    return MiniBatch(columns, units=columns[ragged[0] + MASK_SUFFIX].sum(axis=1, dtype=np.float32))


def _stacked(name: str, values: list[NDArray[Any]]) -> NDArray[Any]:
    first = values[0]
    if any(value.dtype != first.dtype or value.shape != first.shape for value in values):
        forms = {(value.dtype.name, value.shape) for value in values}
        raise ShapeError(
            f"rows of column {name!r} must be of one dtype and shape, got {sorted(forms)}; convert them, or pad them "
            "with fedmb.batch.collate.padded"
        )
    return np.array(values)
