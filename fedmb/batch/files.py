"""Tables from files: never unpickled, never larger than allowed.

| form                     | read                     | mapped (`load_table(..., mapped=True)`) |
|--------------------------|--------------------------|-----------------------------------------|
| `.npz`                   | yes                      | where its members are not compressed    |
| folder of `.npy` files   | yes                      | yes                                     |
| `.safetensors`           | yes                      | yes                                     |
| `.csv`                   | with a schema            | no                                      |
| `.parquet`               | extra `fedmb[parquet]`   | no                                      |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmb.batch.csv_table import read_csv
from fedmb.batch.mapped import map_npy_folder, map_npz, map_safetensors
from fedmb.batch.minibatch import Columns, Schema, check_columns, schema_of
from fedmb.batch.npy import read_npy_folder, read_npz
from fedmb.batch.parquet import read_parquet
from fedmb.batch.tensor_file import read_safetensors
from fedmb.errors import DecodeError, SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

MAX_TABLE_BYTES = 4 << 30  # a table lives in memory; more than this on a client is meant, not met by accident

_READERS: Mapping[str, Callable[[Path, int], dict[str, NDArray[Any]]]] = {
    "": read_npy_folder,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
_MAPPERS: Mapping[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    "": map_npy_folder,
    ".npz": map_npz,
    ".safetensors": map_safetensors,
}
_SUFFIXES = "a .npz, .safetensors, .csv or .parquet file, or a folder of .npy files"


def load_table(
    path: str | Path, *, schema: Schema | None = None, mapped: bool = False, max_bytes: int = MAX_TABLE_BYTES
) -> Columns:
    """The columns in a file or in a folder of `.npy` files, read into memory or mapped.

    Array headers are read first: nothing is unpacked before the unpacked size is known to be at most `max_bytes`.

    Args:
        path: the file; what it is, its suffix says.
        schema: columns that the table must have. CSV cannot do without; from CSV and Parquet only these are read.
        mapped: leave the numbers on disk and read rows as they are drawn: read-only arrays, larger than memory if
            need be. Nobody may shorten the file meanwhile; the operating system would end the process.
        max_bytes: most bytes of a table that is read into memory.

    Raises:
        SettingsError: there is no such file, its suffix is unknown, it cannot be mapped, or an extra is missing.
        DecodeError: the file is broken, holds no array, an array of objects or records, or too many bytes.
        ShapeError: arrays differ in length or from `schema`, or an array has no rows or no axis for them.
    """
    path = Path(path)
    if not path.exists():
        raise SettingsError(f"a table must be an existing file or folder, got {str(path)!r}; check the path")
    columns = _mapped(path) if mapped else _read(path, schema, max_bytes)
    if not columns:
        raise DecodeError(f"a table must hold at least one array, got none in {path}; save one array a column")
    for name, array in columns.items():
        if array.ndim == 0 or array.size == 0:
            raise ShapeError(
                f"column {name!r} must have examples on its first axis, got shape {array.shape} in {path}; drop it"
            )
    try:
        check_columns(columns, schema_of(columns))
    except ShapeError as error:
        lengths = {name: len(array) for name, array in columns.items()}
        raise ShapeError(
            f"columns of {path} must be of equal length, got {lengths}; save only per-row arrays"
        ) from error
    if schema is not None:
        check_columns(columns, schema)
    return columns


def _read(path: Path, schema: Schema | None, max_bytes: int) -> dict[str, NDArray[Any]]:
    suffix = _form(path)
    if suffix == ".csv":
        if schema is None:
            raise SettingsError(
                f"a .csv file needs a schema, which says what its text stands for, got none for {str(path)!r}; pass "
                "schema={'x': Column('float32'), ...}",
                key="schema",
            )
        return read_csv(path, schema, max_bytes)
    if suffix == ".parquet":
        return read_parquet(path, schema, max_bytes)
    return _READERS[suffix](path, max_bytes)


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    suffix = _form(path)
    if suffix not in _MAPPERS:
        raise SettingsError(
            f"a mapped table must be a .npz or .safetensors file or a folder of .npy files, got {str(path)!r}; read it "
            "once and save it as .npy files",
            key="mapped",
        )
    return _MAPPERS[suffix](path)


def _form(path: Path) -> str:
    """The suffix that says what `path` holds, empty for a folder."""
    suffix = "" if path.is_dir() else path.suffix
    if suffix not in {*_READERS, ".csv", ".parquet"} or (suffix == "" and not path.is_dir()):
        raise SettingsError(
            f"a table must be {_SUFFIXES}, got {str(path)!r}; save it with numpy.savez or safetensors.numpy.save_file"
        )
    return suffix
