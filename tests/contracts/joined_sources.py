"""Questions and their late answers on two streams, for the contract in test_batch_source.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.label_join import LabelJoin
from fedmb.batch.minibatch import Column, schema_of
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedmb.batch.minibatch import Columns
    from fedmb.batch.source import BatchSource

NUM_QUESTIONS = 400


def delayed(seed: int = 0) -> tuple[Columns, Columns]:
    """Questions 0 to 399, and answers up to 15 late: a fifth never comes, some have no question."""
    random = np.random.default_rng(seed)
    keys = np.arange(NUM_QUESTIONS)
    questions = {"key": keys, "x": np.sqrt(keys)[:, None] + np.arange(2)}
    order = np.argsort(keys + random.integers(0, 15, NUM_QUESTIONS), kind="stable")
    answered = order[random.random(NUM_QUESTIONS) < 0.8]
    answered = np.insert(answered, np.arange(7, 300, 20), np.arange(10_000, 10_015))
    return questions, {"key": answered, "y": (answered % 5).astype(np.uint8)}


def written(folder: Path, topic: str, columns: Columns) -> Callable[[], LogSource]:
    """A topic of these rows, some to a record, and a function that reads it from the beginning."""
    codec = PackedCodec({name: Column(*column) for name, column in schema_of(columns).items()})
    log = FileLog.open(folder / "log", id="site", fsync=FsyncPolicy.never(), create=True)
    writer = log.writer(topic, 0)
    start, rows = 0, len(columns["key"])
    for count in (4, 1, 7, 2, 9, 3, 30) * 100:
        if start < rows:
            part = {name: array[start : start + count] for name, array in columns.items()}
            writer.append(codec.encode(part), codec_headers(codec))
            start += count
    writer.close()
    return lambda: LogSource(log.reader(topic, [0]), [codec], patience_seconds=0.0)


def joined(folder: Path) -> Callable[[], BatchSource]:
    questions, answers = delayed()
    asked, answered = written(folder, "questions", questions), written(folder, "answers", answers)
    return lambda: LabelJoin(asked(), answered(), key="key", horizon_rows=20)
