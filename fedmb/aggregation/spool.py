"""Models kept until a round closes: by reference while memory allows, then in a file without a name.

The file is read with `pread`, not mapped: a disk that fails says so in an OSError and not in a signal, and pages of it
do not count as this process's memory. It has no name from the start, so that nothing is left behind by a kill.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from fedmb.arrays.bfloat16 import BFLOAT16, widened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.aggregation.layout import Block, Layout
    from fedmb.update import Arrays


class Kept(Protocol):
    """A model that is kept."""

    def parts(self, block: Block) -> list[NDArray[Any]]:
        """The block's elements, in parts that follow each other; not to be written to."""
        ...


class Held:
    """A model kept by reference.

    Args:
        flat: its arrays by name, each one row of elements.
    """

    def __init__(self, flat: Mapping[str, NDArray[Any]]) -> None:
        self._flat = flat

    def parts(self, block: Block) -> list[NDArray[Any]]:
        """One part for each array that reaches into the block."""
        flat = self._flat
        return [
            flat[piece.field.name] if piece.is_whole else flat[piece.field.name][piece.start : piece.stop]
            for piece in block.pieces
        ]


class _Filed:
    """A model kept in the file, from byte `offset` on."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset

    def parts(self, block: Block) -> list[NDArray[Any]]:
        values = np.empty(block.size, block.run.dtype)
        _read(self._descriptor, values, self._offset + block.run.offset + block.start * block.run.dtype.itemsize)
        return [values]


class Spool:
    """Where models wait.

    Args:
        layout: of every model.
        memory_bytes: what may be kept by reference; a model that would pass it is written to the file.
        directory: where the file lies; the system's place for temporary files when left out.
    """

    def __init__(self, layout: Layout, *, memory_bytes: float, directory: Path | None = None) -> None:
        self._layout = layout
        self._memory_bytes = memory_bytes
        self._directory = directory
        self._file: BinaryIO | None = None
        self._filed_bytes = 0
        self._held_bytes = 0

    @property
    def filed_bytes(self) -> int:
        """Bytes that lie in the file."""
        return self._filed_bytes

    def keep(self, arrays: Arrays, *, is_held: bool = False) -> Kept:
        """Keep a model; one that is kept by reference must not be changed from here on.

        One that is held in memory by others anyway (`is_held`) is kept by reference and takes no room.

        Raises:
            OSError: the disk is full or fails.
        """
        flat = self._layout.flat(arrays)
        if is_held:
            return Held(flat)
        if self._held_bytes + self._layout.num_bytes <= self._memory_bytes:
            self._held_bytes += self._layout.num_bytes
            return Held(flat)
        return self._written(flat)

    def _written(self, flat: Mapping[str, NDArray[Any]]) -> Kept:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="fedmb-round-", dir=self._directory, buffering=0)  # noqa: SIM115  # open until the round closes
        descriptor, offset = self._file.fileno(), self._filed_bytes
        for run in self._layout.runs:
            for field in run.fields:
                place = offset + run.offset + field.start * run.dtype.itemsize
                _write(descriptor, flat[field.name], place)
        # The next model begins where any dtype may.
        self._filed_bytes += -(-self._layout.num_bytes // _ALIGNED) * _ALIGNED
        return _Filed(descriptor, offset)

    def close(self) -> None:
        """Give the file back to the disk; what was kept there can no longer be read."""
        if self._file is not None:
            self._file.close()
            self._file = None


_ALIGNED = 64  # bytes; a multiple of every dtype's width


def _write(descriptor: int, values: NDArray[Any], place: int) -> None:
    left = values.view(np.uint8).data
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _read(descriptor: int, values: NDArray[Any], place: int) -> None:
    left = values.view(np.uint8).data
    while left:
        count = os.preadv(descriptor, [left], place)
        if count == 0:
            raise OSError(errno.EIO, "a spooled model ends early")
        left, place = left[count:], place + count


def gather(kept: Kept, block: Block, values: NDArray[Any]) -> None:
    """Write a model's block into `values`, `(elements,)`, whose dtype may be wider, and is for bfloat16."""
    parts = kept.parts(block)
    if block.run.dtype == BFLOAT16:
        parts = [widened(part) for part in parts]
    if len(parts) == 1:
        np.copyto(values, parts[0])
    else:
        np.concatenate(parts, out=values)
