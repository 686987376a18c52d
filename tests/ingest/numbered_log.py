"""Logs whose rows are numbered through, and readers that play a script: doubles for the tests beside this file."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec

SCHEMA = {"id": Column("int64"), "x": Column("float32", (2,))}
PACKED, JSON = PackedCodec(SCHEMA), JsonCodec(SCHEMA)
POISON = None


def filled(*partitions: list[int | None], log=None):
    """A log whose records hold so many rows each, numbered through, or are poison; one-row records are JSON."""
    log = log or MemoryLog()
    for partition, counts in enumerate(partitions):
        with closing(log.writer("t", partition)) as writer:
            row = 1000 * partition
            for count in counts:
                if count is POISON:
                    writer.append(b"poison")
                    continue
                ids = np.arange(row, row + count)
                codec = JSON if count == 1 else PACKED
                columns = {"id": ids, "x": np.stack([ids, -ids], axis=1).astype(np.float32)}
                writer.append(codec.encode(columns), codec_headers(codec))
                row += count
    return log


class Clock:
    """Seconds that pass only while a poll waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A reader of one partition that gives what it is told, each after a wait, and lets a clock run meanwhile."""

    def __init__(self, clock, script):
        self.inner = filled([]).reader("t", [0])
        self.partitions = self.inner.partitions
        self.clock, self.script, self.given = clock, list(script), 0
        self.seek = self.inner.seek

    def poll(self, timeout_seconds, max_records):
        if not self.script or self.script[0][0] > self.clock.now + timeout_seconds:
            self.clock.now += timeout_seconds
            return []
        at, counts = self.script.pop(0)
        self.clock.now = max(at, self.clock.now)
        log = MemoryLog()
        with closing(log.writer("t", 0)) as writer:
            writer.append_many([b""] * self.given)
        filled(counts, log=log)
        reader = log.reader("t", [0])
        reader.seek(self.partitions[0], self.given)
        self.given += len(counts)
        return reader.poll(0.0)
