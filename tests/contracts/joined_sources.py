"""Questions and their late answers on two streams, for the contract in test_batch_source.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fedmb.batch.label_join import LabelJoin
from fedmb.batch.minibatch import Column, schema_of
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.known_rows import KnownRows
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.training.delayed_labels import DelayedLabels
from fedmb.training.drift import Scoring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.batch.source import BatchSource
    from fedmb.training.task import Rows

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


class Fifths:
    """Guesses `y` of `x`."""

    schema: Schema = {"x": Column("float64", (2,)), "y": Column("uint8")}  # never changed

    def build_model(self) -> nn.Module:
        return nn.Linear(2, 5, dtype=torch.float64)

    def forward(self, model: nn.Module, rows: Rows) -> torch.Tensor:
        guess: torch.Tensor = model(rows["x"])
        return guess

    def loss(self, outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, rows["y"].long(), reduction="none")

    def metrics(self, outputs: torch.Tensor, rows: Rows) -> Mapping[str, torch.Tensor]:
        return {"accuracy": (outputs.argmax(1) == rows["y"]).double()}


def scored(folder: Path) -> Callable[[], BatchSource]:
    """What a client with late labels opens, with a model that says what it expects of each question."""
    questions, answers = delayed()
    asked, answered = written(folder, "questions", questions), written(folder, "answers", answers)

    def open_scored() -> BatchSource:
        known = KnownRows(asked(), patience_seconds=0.0)
        source = DelayedLabels(Fifths(), known, answered(), key="key", horizon_rows=20)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            source.score_with(Fifths().build_model(), Scoring(window=64), torch.device("cpu"))
        return source

    return open_scored
