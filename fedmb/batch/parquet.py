"""Tables from Parquet files, through pyarrow: the extra `fedmb[parquet]`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.npy import check_size
from fedmb.errors import DecodeError, SettingsError, ShapeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema


def read_parquet(path: Path, schema: Schema | None, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The columns of a `.parquet` file, those of `schema` only where one is given.

    A column holds numbers, or lists of numbers that are all of one length: then its examples are vectors.

    Raises:
        SettingsError: pyarrow is not installed.
        DecodeError: the file is broken, unpacks to more than `max_bytes`, or a column holds text or gaps.
        ShapeError: a column of `schema` is missing, or a column's lists differ in length.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SettingsError(
            f"a .parquet file needs pyarrow, got: {error}; install the extra with pip install 'fedmb[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            check_size(path, sum(group.total_byte_size for group in groups), max_bytes)
            names = list(file.schema_arrow.names) if schema is None else list(schema)
            if missing := sorted(set(names) - set(file.schema_arrow.names)):
                raise ShapeError(
                    f"a table must have the columns of its schema, {path} lacks {missing}; it has "
                    f"{sorted(file.schema_arrow.names)}"
                )
            table = file.read(columns=names)
    except (arrow.ArrowException, OSError) as error:
        raise DecodeError(f"a table must be readable .parquet, got {path}: {error}; save it again") from error
    columns = {name: _numbers(path, name, table.column(name).combine_chunks()) for name in names}
    # Dictionary pages unpack to more than the metadata says.
    check_size(path, sum(array.nbytes for array in columns.values()), max_bytes)
    return columns


def _numbers(path: Path, name: str, column: Any) -> NDArray[Any]:  # pyarrow's arrays, of a package that may be absent
    """An arrow array as numbers, `(examples,)` or `(examples, length)`."""
    rows = len(column)
    values = column.flatten() if hasattr(column, "flatten") else column
    if column.null_count or values.null_count:
        raise DecodeError(f"column {name!r} must hold no gaps, got nulls in {path}; fill them or drop their rows")
    array = values.to_numpy(zero_copy_only=False)
    if array.dtype.kind not in "biuf":
        raise DecodeError(f"column {name!r} must hold numbers, got {column.type} in {path}; encode it as numbers")
    if not hasattr(column, "values"):
        return np.asarray(array)
    lengths = set(np.unique(column.value_lengths().to_numpy(zero_copy_only=False)).tolist())
    if len(lengths) > 1:
        raise ShapeError(
            f"lists of column {name!r} must be of one length, got {sorted(lengths)} in {path}; pad them first"
        )
    return np.asarray(array.reshape(rows, -1))
