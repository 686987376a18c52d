"""The arrays of a client's reply: the model as it is, its compressed change, or nothing where nothing was learnt.

    whole     a flat record
    none      an empty one: an update without weight is averaged into nothing, so its model need not travel
    bf16, int8, top
              the parts of the compressed change, called "change.<part>", beside the buffers of whole numbers

The change is that of all floating arrays as one float32 vector, `FlatArrays.reals` with float64 rounded behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord

from fedmb.aggregation.compress import compression_of
from fedmb.arrays.bfloat16 import is_real
from fedmb.arrays.flat import DTYPES, FlatArrays, Layout
from fedmb.errors import ShapeError
from fedmb.federation.array_block import from_block, to_block
from fedmb.federation.model_record import check_names, flat_from_record, flat_to_record, tagged
from fedmb.federation.residual import PLACE
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fedmb.aggregation.compress import Compression, Wire
    from fedmb.aggregation.compress_parts import Vector
    from fedmb.federation.residual import Residual
    from fedmb.update import Arrays, Update

WHOLE, NONE = "whole", "none"
_CHANGE = "change."
_MAX_PARTS = 8  # the schemes here have two


def reply_record(
    update: Update,
    received: Arrays,
    wire: Wire,
    *,
    client: str,
    seed: int,
    residual: Residual,
    position: Mapping[str, Any],
) -> tuple[ArrayRecord, Layout, str, dict[str, int]]:
    """The record of a reply, its layout, its form, and what the client's next position adds.

    Args:
        update: what was learnt.
        received: the model that it was learnt from.
        wire: how the server wants it.
        client: name of the client; keys its draws.
        seed: seed of the run.
        residual: what earlier rounds left unsent.
        position: the client's, as the server sent it.
    """
    kept = {PLACE: position[PLACE]} if PLACE in position else {}
    if update.weight == 0:
        return ArrayRecord(), Layout.of(received), NONE, kept
    scheme = compression_of(wire)
    if scheme is None:
        return *flat_to_record(update.arrays), WHOLE, {}
    trained, base = FlatArrays.packed(update.arrays), FlatArrays.packed(received)
    base.layout.check(trained.layout)
    change = _change(trained, base)
    random = generator(seed, client, update.base_version, "compression")
    parts, left = scheme.encode(change, residual.left(position, change.size), random)
    if left is not None:
        kept = residual.keep(left, update.base_version + 1)
    record = ArrayRecord()
    for name, part in parts.items():
        record[_CHANGE + name] = to_block([part], part.shape)
    for kind, buffer in trained.buffers.items():
        if not is_real(DTYPES[kind]):
            record[kind] = to_block([buffer], buffer.shape)
    return record, trained.layout, wire.compression, kept


def arrays_of_reply(record: ArrayRecord, form: str, reference: FlatArrays, wire: Wire) -> FlatArrays:
    """The model that a reply stands for.

    Args:
        record: what came, in the reference's layout.
        form: as the reply calls it.
        reference: the model that was sent.
        wire: how the server asked for it; a reply in another compression is refused.

    Raises:
        ShapeError: the record is not of that form, or of another than was asked for.
    """
    scheme = compression_of(wire)
    if form == NONE:
        check_names(record.keys(), ())
        return reference
    if form == WHOLE and scheme is None:
        return flat_from_record(record, reference.layout)
    if form != wire.compression or scheme is None:
        raise ShapeError(
            f"a reply must be compressed by {wire.compression!r} as it was asked, got {form[:40]!r}; reject it"
        )
    return _decoded(record, scheme, reference)


def _decoded(record: ArrayRecord, scheme: Compression, reference: FlatArrays) -> FlatArrays:
    whole = {kind: size for kind, size in reference.layout.sizes.items() if not is_real(DTYPES[kind])}
    entries = {name: array for name, array in record.items() if not name.startswith(_CHANGE)}
    check_names(entries.keys(), whole.keys())
    sent = {name: array for name, array in record.items() if name.startswith(_CHANGE)}
    if len(sent) > _MAX_PARTS:
        raise ShapeError(f"a compressed change has at most {_MAX_PARTS} parts, got {len(sent)}; reject it")
    parts = {name.removeprefix(_CHANGE): from_block(name, array) for name, array in sent.items()}
    reals = reference.reals()
    change = scheme.decode(parts, sum(vector.size for vector in reals.values()))
    moved, start = {}, 0
    for group, vector in sorted(reals.items()):
        moved[group] = vector + change[start : start + vector.size]
        start += vector.size
    buffers = {kind: tagged(kind, from_block(kind, array)) for kind, array in entries.items()}
    sent_whole = {kind: buffers.get(kind, buffer) for kind, buffer in reference.buffers.items()}
    return reference.replaced(moved, FlatArrays(reference.layout, sent_whole))


def _change(trained: FlatArrays, base: FlatArrays) -> Vector:
    before = base.reals()
    parts = [
        np.subtract(vector, before[group], dtype=vector.dtype) for group, vector in sorted(trained.reals().items())
    ]
    return np.concatenate(parts, dtype=np.float32, casting="same_kind") if parts else np.zeros(0, np.float32)
