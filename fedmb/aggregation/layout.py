"""Where each array of a model lies when all of them are laid end to end, and the blocks that rules work in.

Elements are numbered through all arrays: floating ones first, then integers and booleans, each dtype in one run and
in its own width, so that nothing is converted to be kept. A block is a stretch of one run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.arrays.bfloat16 import is_real
from fedmb.update import check_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedmb.update import Arrays


@dataclass(frozen=True, slots=True)
class Field:
    """One array's place."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    """Its first element's number in its run."""
    size: int
    """Elements."""


@dataclass(frozen=True, slots=True)
class Run:
    """All arrays of one dtype, end to end."""

    dtype: np.dtype[Any]
    fields: tuple[Field, ...]
    offset: int
    """Its first byte's place in a model's bytes; aligned to the dtype's width."""

    @property
    def size(self) -> int:
        """Elements."""
        last = self.fields[-1]
        return last.start + last.size

    @property
    def is_floating(self) -> bool:
        """Whether values may be averaged."""
        return is_real(self.dtype)


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one array that lies in a block."""

    field: Field
    start: int
    """First element, counted in the array."""
    stop: int
    at: int
    """Where it begins, counted in the block."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the array lies in the block."""
        return self.stop - self.start == self.field.size


@dataclass(frozen=True, slots=True)
class Block:
    """Elements `start` to `stop` of one run."""

    run: Run
    start: int
    stop: int
    pieces: tuple[Piece, ...]
    """What fills it, in order and without a gap."""

    @property
    def size(self) -> int:
        """Elements."""
        return self.stop - self.start


class Layout:
    """The order of a model's arrays, by dtype and name.

    Args:
        reference: a model whose names, shapes and dtypes all others must have.
    """

    def __init__(self, reference: Arrays) -> None:
        by_dtype: dict[np.dtype[Any], list[str]] = {}
        for name in sorted(reference):
            by_dtype.setdefault(np.asarray(reference[name]).dtype, []).append(name)
        runs, offset = [], 0
        # Wide dtypes first: each run then begins at a multiple of its width.
        for dtype in sorted(by_dtype, key=lambda one: (not is_real(one), -one.itemsize, one.str)):
            offset = -(-offset // dtype.itemsize) * dtype.itemsize
            runs.append(Run(dtype, tuple(_placed(reference, by_dtype[dtype], dtype)), offset))
            offset += runs[-1].size * dtype.itemsize
        self.runs = tuple(runs)
        self.num_bytes = offset
        self.order = tuple(reference)
        """Names in the order in which the model has them."""
        self.reference: Arrays = {
            one.name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for one in self.fields()
        }
        """Zeros of every array's shape and dtype, in no memory."""

    def fields(self) -> Iterator[Field]:
        """Every array, in the order of the layout."""
        return (field for run in self.runs for field in run.fields)

    @property
    def num_floating(self) -> int:
        """Elements that may be averaged."""
        return sum(run.size for run in self.runs if run.is_floating)

    def check(self, arrays: Arrays) -> None:
        """Demand the names, shapes and dtypes of the reference.

        Raises:
            ShapeError: something differs.
        """
        check_arrays(arrays, self.reference, dtypes=True)

    def flat(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Each array as one row of elements; views wherever its elements lie in order."""
        return {field.name: _flat(arrays[field.name]) for field in self.fields()}

    def empty(self) -> dict[str, NDArray[Any]]:
        """A model of this layout whose values are yet to be written, in the model's own order of names."""
        return {name: np.empty(self.reference[name].shape, self.reference[name].dtype) for name in self.order}

    def blocks(self, elements: int, *, floating: bool) -> list[Block]:
        """All floating runs, or all others, cut into blocks of at most `elements` elements."""
        return [block for run in self.runs if run.is_floating == floating for block in _cut(run, elements)]


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    in_order = array.flags.c_contiguous and array.flags.aligned
    return array.reshape(-1) if in_order else np.require(array, requirements=["C", "A"]).reshape(-1)


def _placed(reference: Arrays, names: list[str], dtype: np.dtype[Any]) -> Iterator[Field]:
    start = 0
    for name in names:
        shape = reference[name].shape
        yield Field(name, shape, dtype, start, math.prod(shape))
        start += math.prod(shape)


def _cut(run: Run, elements: int) -> Iterator[Block]:
    """A run's blocks."""
    start, pieces = 0, []
    for field in run.fields:
        taken = 0
        while taken < field.size:
            at = field.start + taken - start
            stop = min(field.size, taken + elements - at)
            pieces.append(Piece(field, taken, stop, at))
            taken = stop
            if field.start + stop - start == elements:
                yield Block(run, start, start + elements, tuple(pieces))
                start, pieces = start + elements, []
    if pieces:
        yield Block(run, start, run.size, tuple(pieces))
