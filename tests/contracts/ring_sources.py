"""Rings that a daemon has filled, for the contract in test_batch_source.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource
from fedmb.ledger import Position, StreamPartition
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_ring import StreamRing
from fedmb.replay.uniform import UniformReplay, capacity_for

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[[], BatchSource]
RECORDS = (4, 1, 7, 2, 9, 3, 5, 6, 8, 8) * 4


def stream_ring(folder: Path, partitions: int = 1) -> Opener:
    numbers = np.arange(23)
    columns = {"x": np.sqrt(numbers)[:, None] + np.arange(3), "y": (numbers % 5).astype(np.uint8)}
    rows = TableSource(columns, seed=11, client="site")
    names = [StreamPartition("site", "rows", index) for index in range(partitions)]
    ring = StreamRing(folder / "stream.ring", rows.schema, names, max_rows=1000)
    for record, batch in enumerate(map(rows.take, RECORDS)):
        partition, offset = record % partitions, record // partitions * 2 + 1  # every other record was set aside
        places = [(partition, offset, row, len(batch) - 1 - row) for row in range(len(batch))]
        ring.pass_over({names[partition]: Position(offset)})
        ring.append(batch.columns, *np.array(places).T)
    ring.close()
    return lambda: RingSource(folder / "stream.ring", rows.schema, patience_seconds=1.0)


def blended_ring(folder: Path) -> Opener:
    open_ring = stream_ring(folder, partitions=2)

    def open_blend() -> BatchSource:
        fresh = open_ring()
        replay = Ring.mapped(folder / "replay.ring", fresh.schema, capacity_for(64))
        return Blend(fresh, UniformReplay(replay, 64, seed=11, client="site"), 0.4)

    return open_blend
