"""A map-style dataset, torch's included, as a supply of mini-batches, by hand or by name.

dataset:my.module:Scans?root=/data/scans&size=64      calls my.module.Scans(root="/data/scans", size=64)

Values are JSON where they can be read as such (64, true, [1, 2]) and text otherwise.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from fedmb.batch.collate import MASK_SUFFIX, columns_of, padded, padded_names, stacked
from fedmb.batch.gathered import GatheredSource
from fedmb.batch.minibatch import MiniBatch, Schema, check_columns, schema_of
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column
    from fedmb.batch.source import SourcePosition
    from fedmb.batch.table import Tail

DATASET = "dataset:"
_CHUNK = 1024  # rows fetched at a time when a whole column is read, so that images need not fit into memory


@runtime_checkable
class MapDataset(Protocol):
    """Anything with a length and rows by number; `__getitems__`, torch's batched fetch, is used where it exists."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...  # a row is whatever the collate function understands


def dataset_source(
    dataset: MapDataset,
    *,
    seed: int,
    client: str | int,
    tail: Tail = "balance",
    rows: NDArray[Any] | None = None,
    names: Sequence[str] | None = None,
    collate: Callable[[Sequence[Any]], MiniBatch] | None = None,
    schema: Schema | None = None,
) -> GatheredSource:
    """Mini-batches from a map-style dataset, in the order that a `TableSource` of its rows has.

    A row of a dataset in memory costs a Python call here and none in a `TableSource`: load what fits as a table. A
    dataset whose rows are random (augmentation) gives other numbers after a resume unless it draws by row number.

    Args:
        dataset: `len(dataset)` rows, `dataset[i]` one of them.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`.
        rows: numbers of the rows that this client has; None is every row.
        names: names of the places of rows that are tuples; see `fedmb.batch.collate.columns_of`.
        collate: makes a batch of a list of rows; by default `stacked` under `names`. For rows of different lengths,
            `functools.partial(padded, ragged=["tokens"])`; for those of a task, `functools.partial(following, schema)`.
        schema: columns of every batch; by default those of a batch of the first row, which is read once in any case.

    Raises:
        SettingsError: there is no row, or seed or tail are out of range.
        ShapeError: the first row cannot be made a batch, or one of other columns.
    """
    numbers = np.arange(len(dataset)) if rows is None else np.asarray(rows, np.int64)
    if len(numbers) == 0:
        raise SettingsError("a dataset must hold at least one row, got none; leave this client out of the run")
    together = collate or functools.partial(stacked, names=names)

    def gather(wanted: NDArray[np.int64], _: SourcePosition) -> MiniBatch:
        return together(_fetched(dataset, wanted.tolist()))

    first = gather(numbers[:1], {}).columns
    if schema is not None:
        check_columns(first, schema)
    return GatheredSource(numbers, gather, schema or schema_of(first), seed=seed, client=client, tail=tail)


def load_dataset(url: str) -> MapDataset:
    """The dataset that `url` names, as in the module's head: a class or function called with the URL's values.

    Raises:
        SettingsError: the URL breaks a rule, it cannot be imported or called, or rows have no number.
    """
    parts = urlsplit(url)
    module_name, colon, attribute = unquote(parts.path).partition(":")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = {name: _value(text) for name, text in pairs}
    if parts.scheme + ":" != DATASET or not (colon and module_name and attribute) or len(options) < len(pairs):
        raise SettingsError(
            f"a dataset is written dataset:module:Class?name=value with each name once, got {url!r}; "
            "for example dataset:fedmb.tasks.digits:ShiftedDigits?pixels=1"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # as for tasks: a user's folder adds modules and hides none
        sys.path.append(here)
    try:
        dataset = getattr(importlib.import_module(module_name), attribute)(**options)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"dataset {url!r} must be importable, got: {error}; run where its module can be found, or set PYTHONPATH"
        ) from error
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise SettingsError(
            f"dataset {url!r} must open, got {type(error).__name__}: {error}; change what follows the ?"
        ) from error
    if not isinstance(dataset, MapDataset):
        raise SettingsError(
            f"a dataset must have __len__ and __getitem__, {type(dataset).__name__} of {url!r} lacks one; feed rows "
            "without numbers through a stream"
        )
    return dataset


def following(schema: Schema, rows: Sequence[Any]) -> MiniBatch:
    """A batch of a dataset's rows as a task's schema wants it.

    Tuples are named in the order of the schema. A padded column (see `fedmb.batch.collate`) may come without its mask
    and in rows of different lengths: it is padded to the schema's length, and units count its tokens. Numbers take the
    schema's dtype where that changes no value; the source refuses the others.

    Raises:
        ShapeError: rows are not of these columns.
    """
    ragged, first = padded_names(schema), rows[0]
    bare = [name for name in schema if name not in {name + MASK_SUFFIX for name in ragged}]
    has_masks = schema.keys() <= first.keys() if isinstance(first, Mapping) else _places(first) == len(schema)
    fixed = {name: width for name in ragged if (width := schema[name].shape[0]) > 0}  # not those of ANY_LENGTH
    if has_masks or not ragged:
        batch = stacked(rows, names=list(schema))
    else:
        values = columns_of(rows, bare)  # converted row by row: an empty list has no dtype of its own
        each = [{name: _as(values[name][row], schema[name]) for name in bare} for row in range(len(rows))]
        batch = padded(each, ragged=ragged, length=fixed)
    return MiniBatch({name: _as(batch.columns[name], schema[name]) for name in schema}, units=batch.units)


def column_of(dataset: MapDataset, name: str, schema: Schema) -> NDArray[Any]:
    """One column of all rows, which are read once for it.

    Raises:
        ShapeError: rows are not of the schema's columns.
    """
    parts = []
    for start in range(0, len(dataset), _CHUNK):
        columns = following(schema, _fetched(dataset, list(range(start, min(start + _CHUNK, len(dataset)))))).columns
        check_columns(columns, schema)
        parts.append(columns[name])
    return np.concatenate(parts)


def _fetched(dataset: MapDataset, numbers: list[int]) -> Sequence[Any]:
    fetch = getattr(dataset, "__getitems__", None)
    rows: Sequence[Any] = fetch(numbers) if fetch else [dataset[number] for number in numbers]
    return rows


def _places(row: Any) -> int:  # whatever a dataset's row is
    return len(row) if isinstance(row, tuple | list) else 1


def _as(array: NDArray[Any], wanted: Column) -> NDArray[Any]:
    """`array` in the wanted dtype, or as it is where a value would change."""
    if array.dtype.name == wanted.dtype:
        return array
    with np.errstate(invalid="ignore"):  # nan as an integer is what the comparison is for
        converted = array.astype(wanted.dtype)
    return converted if np.array_equal(converted, array, equal_nan=array.dtype.kind == "f") else array


def _value(text: str) -> Any:  # an argument of the user's class
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
