"""Tables that stay on disk: read-only arrays over the bytes of a file, rows read as they are drawn."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedmb.batch.npy import BROKEN, ArrayHeader, check_members, header_of, read_header
from fedmb.batch.tensor_file import tensor_headers
from fedmb.errors import DecodeError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and its extra field
NAME_LENGTH_AT = 26


def map_npy_folder(path: Path) -> dict[str, NDArray[Any]]:
    """The `.npy` files of a folder as mapped arrays, by file name.

    Raises:
        DecodeError: a file is broken or holds anything but plain numbers.
    """
    return {file.stem: _mapped(file, header_of(file)) for file in sorted(path.glob("*.npy"))}


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The members of an uncompressed `.npz` as mapped arrays, by name.

    Members start at any byte, so the arrays may be unaligned; `TableSource` gathers from those as well.

    Raises:
        SettingsError: a member is compressed.
        DecodeError: the archive is broken or holds anything but plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            members = archive.infolist()
            check_members(path, members)
            columns = {}
            for member in members:
                _check_stored(path, member)
                with archive.open(member) as stream:  # checks the local header against the directory
                    header = read_header(path, member.filename, stream, member.file_size)
                raw.seek(member.header_offset + NAME_LENGTH_AT)
                lengths = raw.read(LOCAL_HEADER_BYTES - NAME_LENGTH_AT)
                start = member.header_offset + LOCAL_HEADER_BYTES
                start += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                name = member.filename.removesuffix(".npy")
                columns[name] = _mapped(path, header._replace(offset=start + header.offset))
            return columns
    except (DecodeError, SettingsError):
        raise
    except BROKEN as error:
        raise DecodeError(f"a table must be a readable .npz, got {path}: {error}; save it again") from error


def _check_stored(path: Path, member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED:
        raise SettingsError(
            f"a mapped .npz must not be compressed, {member.filename} in {path} is; save it with numpy.savez, or load "
            "it without mapped",
            key="mapped",
        )


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a `.safetensors` file as mapped arrays, by name.

    Raises:
        DecodeError: the file is broken or holds a dtype that NumPy lacks.
    """
    return {name: _mapped(path, header) for name, header in tensor_headers(path).items()}


def _mapped(path: Path, header: ArrayHeader) -> NDArray[Any]:
    if math.prod(header.shape) == 0:  # the operating system maps no empty stretch
        return np.empty(header.shape, header.dtype)
    if header.offset + math.prod(header.shape) * header.dtype.itemsize > path.stat().st_size:
        raise DecodeError(f"an array of shape {header.shape} must lie in its file, got {path} cut short; save it again")
    order: Literal["C", "F"] = "F" if header.is_fortran else "C"
    # As a plain array: numpy.memmap would also be the type of every batch taken from it.
    return np.asarray(np.memmap(path, header.dtype, "r", header.offset, header.shape, order))
