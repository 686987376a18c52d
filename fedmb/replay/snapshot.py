"""A state on the disk: one file a generation, which is whole or refused.

A file is a plain safetensors file named `snapshot-000012-<crc>.safetensors`; the name holds the CRC-32C of its bytes.
Arrays are its tensors; everything else is JSON in its header, with `{"$array": name}` where an array was. It is written
beside its place, synced and renamed, so whoever is killed leaves the generations before whole. Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from crc32c import crc32c

from fedmb.errors import CorruptSnapshot, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORMAT = 1
KEEP = 2  # generations: a disk may tear one, the other was whole before
CHUNK = 1 << 20  # bytes checked at once; they stay in the cache
MOST_HEADER = 1 << 28  # bytes; a length above this comes from a foreign file
NAME = re.compile(r"snapshot-(\d{6,})-([0-9a-f]{8})\.safetensors")
MARK = "$array"
TENSORS = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{code}{bits}" for sign, code in (("", "I"), ("u", "U")) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    "complex64": "C64",
}
"""Names of dtypes in a safetensors file; other arrays are stored as bytes."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """An array that is written piece by piece, because it may be larger than memory."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Iterable[NDArray[Any]]
    """Along the first axis, in order; read once."""


class Unfinished:
    """A snapshot that is written and does not count yet: `finish` makes it durable, `abandon` forgets it."""

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        """Write the state beside its place; arrays may change afterwards.

        Raises:
            OSError: the disk does not take it; nothing is left of it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._version = max((version for version, _ in generations(folder)), default=0) + 1
        _clean(folder)
        self._path = folder / f".snapshot-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        self._file: IO[bytes] = open(self._path, "wb", opener=_private)  # noqa: SIM115  # Path.open has no opener
        try:
            self._checksum = _write(self._file, state)
        except BaseException:
            self.abandon()
            raise

    def finish(self, *, keep: int = KEEP) -> Path:
        """Make the snapshot the newest generation, and keep so many; blocks on the disk.

        Raises:
            OSError: the disk does not take it; earlier generations stay as they are.
        """
        path = self._folder / f"snapshot-{self._version:06d}-{self._checksum:08x}.safetensors"
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(path)
        except BaseException as error:
            if isinstance(error, OSError):
                error.filename = str(path)
            self.abandon()
            raise
        _sync(self._folder)
        for _, old in generations(self._folder)[:-keep]:
            old.unlink(missing_ok=True)
        return path

    def abandon(self) -> None:
        """Leave nothing of it."""
        with suppress(OSError):  # on a full disk closing fails too, and what is left takes room
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def save(folder: Path, state: dict[str, Any], *, keep: int = KEEP) -> Path:
    """Store a state of arrays, JSON values and None as the newest generation in a folder.

    Raises:
        OSError: the disk does not take it; earlier generations stay as they are.
    """
    return Unfinished(folder, state).finish(keep=keep)


def generations(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of each snapshot in a folder, oldest first."""
    found = [(match, path) for path in folder.glob("snapshot-*") if (match := NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def newest(place: Path) -> dict[str, Any] | None:
    """The state in a file, or the newest whole one in a folder; None where the folder has none.

    Raises:
        CorruptSnapshot: the file is damaged, or all of the folder's are.
        VersionMismatch: another format of fedmb wrote it.
        FileNotFoundError: there is no such file or folder.
    """
    if not place.is_dir():
        return load(place)
    found = generations(place)
    for version, path in reversed(found):
        try:
            return load(path)
        except CorruptSnapshot as error:
            logger.warning("snapshot set aside version=%d path=%s reason=%s", version, path, error)
    if found:
        raise CorruptSnapshot(
            f"one whole snapshot is needed to go on, all {len(found)} in {place} are damaged; delete them to begin anew"
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """Read a state back; its arrays are views of the file, not to be written.

    Raises:
        CorruptSnapshot: its bytes do not have the checksum in its name, or are no snapshot.
        VersionMismatch: another format of fedmb wrote it.
    """
    match = NAME.fullmatch(path.name)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < 8:  # noqa: PLR2004  # what a file's header begins with
            raise CorruptSnapshot(f"a snapshot must begin with its header, {path} is empty; use an older one")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    checksum = 0
    for start in range(0, len(data), CHUNK):
        checksum = crc32c(data[start : start + CHUNK], checksum)
    if match and int(match[2], 16) != checksum:
        raise CorruptSnapshot(
            f"a snapshot's bytes must have the checksum in its name, {path} has {checksum:08x}; use an older one"
        )
    try:
        return _read(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptSnapshot(f"a snapshot must be a fedmb safetensors file, {path} is not: {error}") from error


def _write(file: IO[bytes], state: dict[str, Any]) -> int:
    """Write the file's bytes, and answer their checksum."""
    arrays: dict[str, NDArray[Any] | Streamed] = {}
    tree = _split(state, arrays, "")
    header: dict[str, Any] = {"__metadata__": {"fedmb": json.dumps({"format": FORMAT, "state": tree})}}
    end = 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))  # each on its own boundary
    for name, array in ordered:
        kind = TENSORS.get(array.dtype.name)
        size = array.dtype.itemsize * math.prod(array.shape)
        shape = list(array.shape) if kind else [size]
        header[name] = {"dtype": kind or "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    checksum = 0
    for piece in _pieces(text, ordered):
        file.write(piece)
        checksum = crc32c(piece, checksum)
    return checksum


def _pieces(text: bytes, arrays: list[tuple[str, NDArray[Any] | Streamed]]) -> Iterator[bytes | memoryview]:
    yield len(text).to_bytes(8, "little")
    yield text
    for _, array in arrays:
        for piece in array.pieces if isinstance(array, Streamed) else [array]:
            if piece.size:
                yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def _split(value: Any, arrays: dict[str, NDArray[Any] | Streamed], name: str) -> Any:  # a state is what it is
    """The value with a mark in place of every array, which goes to `arrays`."""
    if isinstance(value, np.ndarray | Streamed):
        arrays[name] = value
        return {MARK: name, "dtype": value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, dict):
        return {key: _split(one, arrays, f"{name}.{key}" if name else key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_split(one, arrays, f"{name}.{place}") for place, one in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _read(data: memoryview) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(MOST_HEADER, len(data) - 8):
        raise ValueError(f"its header has {length} bytes")
    header = json.loads(bytes(data[8 : 8 + length]))
    about = json.loads(header["__metadata__"]["fedmb"])
    if about["format"] != FORMAT:
        raise VersionMismatch(
            f"a snapshot must have format {FORMAT}, got {about['format']}; read it with the fedmb that wrote it"
        )
    state = _joined(about["state"], header, data[8 + length :])
    if not isinstance(state, dict):
        raise TypeError("its state is no mapping")
    return state


def _joined(value: Any, header: dict[str, Any], data: memoryview) -> Any:  # a state is what it is
    if isinstance(value, dict) and MARK in value:
        start, stop = header[value[MARK]]["data_offsets"]
        dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
        if dtype.hasobject or stop - start != dtype.itemsize * math.prod(shape):
            raise ValueError(f"its array {value[MARK]!r} has {stop - start} bytes")
        return np.frombuffer(data[start:stop], dtype).reshape(shape) if stop > start else np.empty(shape, dtype)
    if isinstance(value, dict):
        return {key: _joined(one, header, data) for key, one in value.items()}
    if isinstance(value, list):
        return [_joined(one, header, data) for one in value]
    return value


def _clean(folder: Path) -> None:
    """Delete what killed processes left unfinished."""
    for path in folder.glob(".snapshot-*-*.tmp"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read: rows are a site's own."""
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
