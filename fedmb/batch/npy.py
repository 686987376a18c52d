"""Arrays in `.npy` form, alone in a folder or together in a `.npz`: headers first, objects never."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BROKEN = (
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
)
"""What zipfile and NumPy raise for bytes that are not an array."""


class ArrayHeader(NamedTuple):
    """What an array's header promises."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int
    """Bytes before the numbers."""


def read_npz(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz`, by name.

    Raises:
        DecodeError: it is broken, unpacks to more than `max_bytes`, or holds anything but plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_size(path, sum(member.file_size for member in members), max_bytes)
            check_members(path, members)
            for member in members:
                with archive.open(member) as stream:
                    read_header(path, member.filename, stream, member.file_size)
            columns = {}
            for member in members:
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                    columns[member.filename.removesuffix(".npy")] = array
            return columns
    except DecodeError:
        raise
    except BROKEN as error:
        raise DecodeError(f"a table must be a readable .npz, got {path}: {error}; save it again") from error


def read_npy_folder(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of the `.npy` files in a folder, by file name; other files are left alone.

    Raises:
        DecodeError: one is broken or holds anything but plain numbers, or together they exceed `max_bytes`.
    """
    files = sorted(path.glob("*.npy"))
    check_size(path, sum(file.stat().st_size for file in files), max_bytes)
    columns = {}
    for file in files:
        header_of(file)
        try:
            columns[file.stem] = np.load(file, allow_pickle=False)
        except BROKEN as error:
            raise DecodeError(f"a column must be a readable .npy, got {file}: {error}; save it again") from error
    return columns


def header_of(file: Path) -> ArrayHeader:
    """The header of a `.npy` file.

    Raises:
        DecodeError: it is broken, promises other bytes than the file holds, or Python objects.
    """
    try:
        with file.open("rb") as stream:
            return read_header(file, file.name, stream, file.stat().st_size)
    except DecodeError:
        raise
    except BROKEN as error:
        raise DecodeError(f"a column must be a readable .npy, got {file}: {error}; save it again") from error


def read_header(path: Path, name: str, stream: IO[bytes], size: int) -> ArrayHeader:
    """The header of array `name`, whose `stream` holds `size` bytes.

    Raises:
        DecodeError: the header promises other bytes, or Python objects.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # version 3 exists for records with Unicode field names
        raise DecodeError(f"array {name} must be plain numbers, got .npy version {version} in {path}; save it again")
    if dtype.hasobject or dtype.kind == "V":
        raise DecodeError(
            f"array {name} must hold plain numbers, got {dtype} in {path}; objects would have to be unpickled, which "
            "runs code from the file: convert to a fixed dtype"
        )
    promised = stream.tell() + math.prod(shape) * dtype.itemsize
    if any(axis < 0 for axis in shape) or promised != size:
        raise DecodeError(
            f"array {name} must fill its {size} bytes, its header promises {promised} in {path}; save it again"
        )
    return ArrayHeader(shape, is_fortran, dtype, stream.tell())


def check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse archives that hold anything but arrays, or arrays that unpack without bound.

    Raises:
        DecodeError: a member is no `.npy`, has another's name, or is neither stored nor deflated.
    """
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise DecodeError(
            f"an .npz must hold differently named .npy arrays, got {names} in {path}; save it with numpy.savez"
        )
    methods = {member.compress_type for member in members}
    if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile unpacks bzip2 and LZMA a whole block at a time, however little is asked for.
        raise DecodeError(
            f"an .npz must be stored or deflated, got compression methods {sorted(methods)} in {path}; save it with "
            "numpy.savez"
        )


def check_size(path: Path, size: int, max_bytes: int) -> None:
    """Refuse a table of more than `max_bytes`.

    Raises:
        DecodeError: `size` exceeds it.
    """
    if size > max_bytes:
        raise DecodeError(
            f"a table must unpack to at most {max_bytes} bytes, got {size} in {path}; raise max_bytes if you trust it"
        )
