"""Tables from files: `.npz` and `.safetensors`, never unpickled, never larger than allowed."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Columns, check_columns, schema_of
from fedmb.errors import DecodeError, SettingsError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TABLE_BYTES = 4 << 30  # a table lives in memory; more than this on a client is meant, not met by accident

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    SyntaxError,
    EOFError,
    OSError,
    NotImplementedError,  # an unknown compression method
    RuntimeError,  # an encrypted member
    ValueError,
    TypeError,
    KeyError,
)  # what zipfile and NumPy raise for bytes that are not an array


def load_table(path: str | Path, *, max_bytes: int = MAX_TABLE_BYTES) -> Columns:
    """The columns in a `.npz` or `.safetensors` file, read into memory.

    Array headers are read first: nothing is unpacked before the unpacked size is known to be at most `max_bytes`.

    Raises:
        SettingsError: there is no such file, or its suffix is neither of the two.
        DecodeError: the file is broken, holds no array, an array of objects or records, or too many bytes.
        ShapeError: arrays differ in length, or an array has no rows or no axis for them.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"a table must be an existing file, got {str(path)!r}")
    if path.suffix == ".npz":
        columns = _load_npz(path, max_bytes)
    elif path.suffix == ".safetensors":
        columns = _load_safetensors(path, max_bytes)
    else:
        raise SettingsError(
            f"a table must be a .npz or .safetensors file, got {str(path)!r}; save it with numpy.savez or "
            "safetensors.numpy.save_file"
        )
    if not columns:
        raise DecodeError(f"a table must hold at least one array, got none in {path}")
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
    return columns


def _load_npz(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_size(path, sum(member.file_size for member in members), max_bytes)
            _check_members(path, members)
            for member in members:
                with archive.open(member) as stream:
                    _check_header(path, member, stream)
            columns = {}
            for member in members:
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                    columns[member.filename.removesuffix(".npy")] = array
            return columns
    except DecodeError:
        raise
    except _BROKEN as error:
        raise DecodeError(f"a table must be a readable .npz, got {path}: {error}; save it again") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise DecodeError(f"an .npz must hold differently named .npy arrays, got {names} in {path}")
    methods = {member.compress_type for member in members}
    if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile unpacks bzip2 and LZMA a whole block at a time, however little is asked for.
        raise DecodeError(f"an .npz must be stored or deflated, got compression methods {sorted(methods)} in {path}")


def _check_header(path: Path, member: zipfile.ZipInfo, stream: IO[bytes]) -> None:
    """Refuse an array whose header promises other bytes than the archive holds, or Python objects."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # version 3 exists for records with Unicode field names
        raise DecodeError(f"array {member.filename} must be plain numbers, got .npy version {version} in {path}")
    if dtype.hasobject or dtype.kind == "V":
        raise DecodeError(
            f"array {member.filename} must hold plain numbers, got {dtype} in {path}; objects would have to be "
            "unpickled, which runs code from the file: convert to a fixed dtype"
        )
    promised = stream.tell() + math.prod(shape) * dtype.itemsize
    if any(axis < 0 for axis in shape) or promised != member.file_size:
        raise DecodeError(
            f"array {member.filename} must fill its {member.file_size} bytes, its header promises {promised} in "
            f"{path}; save it again"
        )


def _load_safetensors(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    import safetensors
    import safetensors.numpy

    _check_size(path, path.stat().st_size, max_bytes)
    try:
        columns: dict[str, NDArray[Any]] = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, *_BROKEN) as error:
        raise DecodeError(f"a table must be readable .safetensors of NumPy dtypes, got {path}: {error}") from error
    return columns


def _check_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DecodeError(
            f"a table must unpack to at most {max_bytes} bytes, got {size} in {path}; raise max_bytes if you trust it"
        )
