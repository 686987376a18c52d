"""A task whose model counts how often it has learnt each row, beside weights that depend on the order of the rows.

Every batch has 64 rows and the learning rate is a power of two, so the counts are exact: 1.0 for once.
"""

import os
import runpy
import signal
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.federation.client import client_app
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.federation.stream_run import StreamRun
from fedmb.federation.stream_schema import schema_text
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import open_log
from fedmb.replay.ring_source import RingSource
from fedmb.simulation.grid import InProcessGrid
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.sizing_section import Sizing
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.local_update import LocalUpdate
from fedmb.training.recipe import Training

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = {"number": Column("int64"), "x": Column("float32", (4,))}
BATCH, STEPS, RATE = 64, 5, 2.0**-4
RING_BYTES = 128 << 10  # some 2,000 rows: the daemon waits for the trainer nearly always
PATIENCE = 60.0  # seconds; the daemon of a trainer that waits may just have been killed


class CountingModel(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.learnt = nn.Parameter(torch.zeros(rows))
        self.line = nn.Linear(4, 1)


class Counting:
    """Rows are numbered from 0; the label is a function of the features."""

    schema = SCHEMA

    def __init__(self, rows):
        self.rows = rows

    def build_model(self):
        return CountingModel(self.rows)

    def forward(self, model, rows):
        return model.line(rows["x"])[:, 0], model.learnt[rows["number"]]

    def loss(self, outputs, rows):
        guess, learnt = outputs
        return (guess - rows["x"].sum(1)) ** 2 - BATCH / RATE * learnt

    def metrics(self, outputs, rows):
        return {}


def fill(url, partitions, rows):
    """One record for each row, dealt out to the partitions, with a producer that is not ours to kill."""
    codec, log = SampleCodec(SCHEMA), open_log(url)
    x = np.random.default_rng(7).standard_normal((rows, 4), np.float32)
    topic = url.partition("?")[0].rpartition("/")[2]
    for partition in range(partitions):
        numbers = np.arange(partition, rows, partitions)
        with closing(log.writer(topic, partition)) as writer:
            writer.append_many(codec.encode_rows({"number": numbers, "x": x[numbers]}), codec_headers(codec))


def pour(url, ring):
    """What `fedmb stream run` does, into a ring that is much smaller than the stream."""
    schema = ring.with_suffix(".json")
    schema.write_text(schema_text(SCHEMA))
    settings = StreamRun(url=url, ring=ring, schema_file=schema, max_bytes=RING_BYTES, flush_seconds=0.2)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    runpy.run_path(str(ROOT / "streams" / "daemon.py"))["run"](settings, stop)


def learn(source, place, rows):
    """A server and its one client, from the newest checkpoint in `place` to the round that learns the last row."""
    torch.set_num_threads(1)
    path = place / "run"
    run = begun_or_new(path)
    task = Counting(rows)
    training = Training(steps=STEPS, sizing=Sizing(size=BATCH), learning_rate=LearningRate(rate=RATE))
    opened = opened_source(source)
    with closing(opened):
        client = LocalUpdate(task, opened, training, client="a", seed=0, stream=opened)
        grid = InProcessGrid(client_app(lambda _: client), {2: {"client": "a"}})
        server = Server(task, Rounds(count=rows // BATCH // STEPS), MiniBatchFedAvg(), run, seed=0, training=training)
        server.train(grid)
    run.close()
    (place / "done").touch()


def begun_or_new(path):
    """The run in a directory; a kill may have come between the directory and what makes it a run."""
    is_begun = (path / "config.toml").exists()
    return RunDirectory.existing(path) if is_begun else RunDirectory.create(path, config="", seed=0)


def opened_source(source):
    """A ring when it is a path, the stream itself when it is a URL."""
    if isinstance(source, os.PathLike):
        return RingSource(source, SCHEMA, patience_seconds=PATIENCE)
    log = open_log(source)
    topic = source.partition("?")[0].rpartition("/")[2]
    return LogSource(log.reader(topic, log.partitions(topic)), [SampleCodec(SCHEMA)], patience_seconds=PATIENCE)
