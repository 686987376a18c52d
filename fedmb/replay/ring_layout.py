"""What every ring's file has: a described layout, one owner, and its place on the disk.

0             magic, format, length and CRC-32C of the description; the description (JSON: capacity, columns)
commits       pages for commits
data          rows, or the columns by name and then hidden ones, each on a 64-byte boundary
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from crc32c import crc32c

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError, VersionMismatch
from fedmb.replay.lock_holder import lock_holder

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema

MAGIC = b"FEDMBRNG"
FORMAT = 1
PAGE = 4096  # bytes; commits and data each begin on a page of their own
ALIGNMENT = 64  # bytes; a cache line
STORED_KINDS = "biufc"  # bool, integers, floats, complex: dtypes whose name says everything
MAX_DESCRIPTION = 1 << 20  # bytes; a length above this comes from a foreign file
PREFIX = struct.Struct("<8sIII")


class Head:
    """What stands before the data of a file, and how long the file is.

    Args:
        description: what the file is, as JSON values; a file with another one is refused.
        magic: the first eight bytes, which tell one kind of file from another.
        version: number of the file's format.
        commit_bytes: room for commits, whole pages.
        data_bytes: room for data behind them.
    """

    def __init__(
        self,
        description: Mapping[str, object],
        *,
        magic: bytes,
        version: int = FORMAT,
        commit_bytes: int = 0,
        data_bytes: int,
    ) -> None:
        self.magic = magic
        self.version = version
        self.description = json.dumps({"byteorder": sys.byteorder, **description}).encode()
        self.commits = rounded(PREFIX.size + len(self.description), PAGE)
        self.data = self.commits + commit_bytes
        self.size = rounded(self.data + data_bytes, PAGE)

    @property
    def prefix(self) -> bytes:
        """What stands in front of the description."""
        return PREFIX.pack(self.magic, self.version, len(self.description), crc32c(self.description))


class Layout(Head):
    """Where things lie in the file of a ring by columns.

    Args:
        schema: columns of every row.
        capacity: rows.
        magic: the first eight bytes, which tell one kind of ring from another.
        commit_bytes: room for commits, whole pages.
        details: what else the description says, as JSON values.
        hidden: columns of the ring's own, behind those of the schema.
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int,
        *,
        magic: bytes = MAGIC,
        commit_bytes: int = PAGE,
        details: Mapping[str, object] | None = None,
        hidden: Schema | None = None,
    ) -> None:
        described, own_columns = placed(schema, capacity)
        behind, hidden_columns = placed(hidden or {}, capacity, described)
        super().__init__(
            {"capacity": capacity, "columns": named(schema), **(details or {})},
            magic=magic,
            commit_bytes=commit_bytes,
            data_bytes=behind,
        )
        self.columns = {name: (self.data + start, column) for name, (start, column) in own_columns.items()}
        self.hidden = {name: (self.data + start, column) for name, (start, column) in hidden_columns.items()}


def named(schema: Schema) -> dict[str, list[object]]:
    """A schema as JSON values, by name."""
    return {name: [column.dtype, list(column.shape)] for name, column in sorted(schema.items())}


def placed(schema: Schema, capacity: int, end: int = 0) -> tuple[int, dict[str, tuple[int, Column]]]:
    """Bytes up to the end of all columns, and where each begins, on a cache line; the first lies behind `end`."""
    found = {}
    for name, column in sorted(schema.items()):
        start = rounded(end, ALIGNMENT)
        found[name] = start, column
        end = start + capacity * np.dtype((column.dtype, column.shape)).itemsize
    return end, found


def storable(schema: Schema, capacity: int) -> dict[str, Column]:
    """The schema with plain dtypes and shapes.

    Raises:
        SettingsError: capacity is below 1, there is no column, or a column is not of numbers.
    """
    if capacity < 1:
        raise SettingsError(f"a ring's capacity must be 1 row or more, got {capacity}", key="capacity")
    if not schema:
        raise SettingsError("a ring needs at least one column, got none")
    for name, column in schema.items():
        try:
            kind = np.dtype(column.dtype).kind
        except (AttributeError, TypeError):
            raise SettingsError(
                f'column {name!r} must be like Column("float32", (4,)), got {column!r}; name a dtype of NumPy'
            ) from None
        if kind not in STORED_KINDS:
            raise SettingsError(f"column {name!r} of a ring must hold numbers, got {column.dtype}; convert it first")
        if any(length < 0 for length in column.shape):
            raise SettingsError(
                f"column {name!r} of a ring must have a fixed shape, got {column.shape}; use RaggedColumn"
            )
    return {name: Column(column.dtype, tuple(column.shape)) for name, column in schema.items()}


def row_bytes(schema: Schema) -> int:
    """Bytes of a row in all its columns."""
    return sum(np.dtype((column.dtype, column.shape)).itemsize for column in schema.values())


def own(descriptor: int, path: Path) -> None:
    """Be the file's only owner until its descriptor is unlocked and closed.

    Raises:
        AlreadyOwned: another live process, or this one, owns it; the note says which, where the kernel tells.
        SettingsError: it is no ordinary file.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise SettingsError(f"a ring must be an ordinary file, got {path}; choose another path")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        refusal = AlreadyOwned(
            f"a ring's file must have one owner, {path} is in use; stop the other process or choose another path"
        )
        if process := lock_holder(path):
            refusal.add_note(f"process {process} has it")
        raise refusal from error


def described(descriptor: int, path: Path, magic: bytes = MAGIC, version: int = FORMAT) -> bytes:
    """The description of the ring in a file.

    Raises:
        CorruptRing: the file is not such a ring, or its description is damaged.
        VersionMismatch: the file has another format version.
    """
    prefix = os.pread(descriptor, PREFIX.size, 0)
    if len(prefix) < PREFIX.size or not prefix.startswith(magic):
        raise CorruptRing(f"{path} must begin as a ring does, got {prefix[:8]!r}; choose another path")
    _, found, length, checksum = PREFIX.unpack(prefix)
    if found != version:
        raise VersionMismatch(
            f"a ring's file must have format {version}, {path} has {found}; use the fedmb that made it or "
            "delete it to begin with an empty memory"
        )
    description = os.pread(descriptor, min(length, MAX_DESCRIPTION), PREFIX.size)
    # The checksum of nothing is 0, so a blanked prefix would pass for an empty description.
    if not description or len(description) != length or crc32c(description) != checksum:
        raise CorruptRing(f"{path}: the description fails its checksum; delete it to begin with an empty memory")
    return description


def check_description(descriptor: int, path: Path, layout: Head) -> None:
    """Refuse a file that was made for another layout.

    Raises:
        SettingsError: it was made for other columns, another capacity or other details.
        CorruptRing: the file is not such a ring, or its description is damaged.
        VersionMismatch: the file has another format version.
    """
    description = described(descriptor, path, layout.magic, layout.version)
    if description == layout.description:
        return
    found, wanted = json.loads(description), json.loads(layout.description)
    differences = [f"{key} {found.get(key)} (wanted {wanted[key]})" for key in wanted if found.get(key) != wanted[key]]
    raise SettingsError(
        f"a ring's file must fit its settings, {path} has {', '.join(differences)}; go back to the former "
        "settings, or move the file away to begin with an empty memory"
    )


def reserve(descriptor: int, path: Path, layout: Head, writes: Iterable[tuple[int, bytes]]) -> None:
    """Write these bytes at these places, and keep room on the disk for every row.

    Raises:
        SettingsError: the disk cannot hold the file; it is left empty.
    """
    try:
        for at, content in writes:
            os.pwrite(descriptor, content, at)
        # Without the reservation a full disk would be a SIGBUS at some later append.
        os.posix_fallocate(descriptor, 0, layout.size)
    except OSError as error:
        os.ftruncate(descriptor, 0)
        raise SettingsError(
            f"a ring must fit on its disk, {path} needs {layout.size} bytes: {error.strerror}; make it smaller or "
            "free space",
            key="capacity",
        ) from error


def arrays(buffer: mmap.mmap, placed: Mapping[str, tuple[int, Column]], capacity: int) -> dict[str, NDArray[Any]]:
    """Columns over a mapped file, `(capacity, ...)` each."""
    return {
        name: np.ndarray((capacity, *column.shape), column.dtype, buffer=buffer, offset=start)
        for name, (start, column) in placed.items()
    }


def rounded(number: int, multiple: int) -> int:
    """`number`, raised to the next multiple."""
    return -(-number // multiple) * multiple
