"""A model as Flower's ArrayRecord, in three forms.

- by array: one entry for each array, under its name. Flower's own form: clients that are asked in it answer in it.
- flat: one entry for each dtype ("float32", "int64", "bfloat16"; the latter as the bits, in uint16), with a layout
  beside it. What travels under our rounds.
- averaged: what strategies see under our rounds: "float32" and, where the model has them, "float64", vectors that may
  be averaged element by element. 16-bit floats are widened into the first; whole numbers are in neither.

Every record that was received is held against a layout before its bytes are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

from fedmb.arrays.bfloat16 import BFLOAT16
from fedmb.arrays.flat import MAX_ARRAYS, FlatArrays, Layout
from fedmb.errors import ShapeError
from fedmb.federation.array_block import from_block, to_block

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from fedmb.update import Arrays

_SHOWN = 3  # names in an error


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Named arrays, an entry each."""
    return _record({name: to_block([plain(np.asarray(array))], array.shape) for name, array in arrays.items()})


def arrays_from_record(record: ArrayRecord, reference: Arrays | None = None) -> dict[str, NDArray[Any]]:
    """Named arrays of a record by array, as read-only views; those of `reference` and no others, where there is one.

    Raises:
        ShapeError: the names are others, or the bytes of an array cannot be read.
    """
    if reference is not None:
        check_names(record.keys(), reference.keys())
    elif len(record) > MAX_ARRAYS:
        raise ShapeError(f"a model has at most {MAX_ARRAYS} arrays, got {len(record)}; reject the message")
    arrays = {name: from_block(name, array) for name, array in record.items()}
    for name, like in (reference or {}).items():
        if like.dtype == BFLOAT16 and arrays[name].dtype == np.uint16:
            arrays[name] = arrays[name].view(BFLOAT16)
    return arrays


def flat_to_record(arrays: Arrays) -> tuple[ArrayRecord, Layout]:
    """A model, an entry a dtype, and the layout that it needs; the arrays are copied once."""
    if isinstance(arrays, FlatArrays):
        layout, blocks = arrays.layout, {kind: [buffer] for kind, buffer in arrays.buffers.items()}
    else:
        layout = Layout.of(arrays)
        blocks = {kind: [] for kind in layout.sizes}
        for slot in layout.slots:
            blocks[slot.kind].append(arrays[slot.name])
    entries = {kind: to_block([plain(part) for part in parts], (layout.sizes[kind],)) for kind, parts in blocks.items()}
    return _record(entries), layout


def flat_from_record(record: ArrayRecord, layout: Layout) -> FlatArrays:
    """A model whose arrays are read-only views of a flat record.

    Raises:
        ShapeError: the record is not of this layout.
    """
    check_names(record.keys(), layout.sizes.keys())
    return FlatArrays(layout, {kind: tagged(kind, from_block(kind, array)) for kind, array in record.items()})


def averaged_record(arrays: FlatArrays, sent: ArrayRecord | None = None) -> ArrayRecord:
    """What of a model may be averaged; entries of `sent`, the flat record it came in, are used again where they fit."""
    entries = {}
    for group, vector in arrays.reals().items():
        came_so = sent is not None and group in sent and vector is arrays.buffers.get(group)
        entries[group] = sent[group] if sent is not None and came_so else to_block([vector], vector.shape)
    return _record(entries)


def aggregated(reference: FlatArrays, record: ArrayRecord, whole: FlatArrays) -> FlatArrays:
    """The model that a strategy made of averaged records, in the reference's dtypes, with the whole numbers of `whole`.

    Raises:
        ShapeError: the strategy answered with vectors of other names or sizes.
    """
    return reference.replaced({group: from_block(group, array) for group, array in record.items()}, whole)


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """`array` as npy knows it: bfloat16 as its bits."""
    return array["bfloat16"] if array.dtype == BFLOAT16 else array


def tagged(kind: str, array: NDArray[Any]) -> NDArray[Any]:
    """`array` as a layout's dtype says: bits of bfloat16 as such."""
    return array.view(BFLOAT16) if kind == "bfloat16" and array.dtype == np.uint16 else array


def check_names(found: Collection[str], wanted: Collection[str]) -> None:
    """Demand the same names, however many and however long those are that were received.

    Raises:
        ShapeError: they differ.
    """
    known, sent = set(wanted), set(found)
    if known == sent:
        return
    missing = [name[:80] for name in sorted(known - sent)[:_SHOWN]]
    unknown = [name[:80] for name in list(sent - known)[:_SHOWN]]
    raise ShapeError(
        f"arrays must carry the model's names, missing {missing}, unknown {sorted(unknown)}; client and server must "
        "run the same task"
    )


def _record(entries: dict[str, Array]) -> ArrayRecord:
    record = ArrayRecord()  # its own way from a dict makes every entry anew
    for name, array in entries.items():
        record[name] = array
    return record
