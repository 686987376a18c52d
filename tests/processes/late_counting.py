"""The counting task with labels that come later: questions in one topic, their answers out of order in another."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import torch
from counting import BATCH, PATIENCE, RATE, STEPS, CountingModel, begun_or_new

from fedmb.batch.minibatch import Column
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import open_log
from fedmb.simulation.grid import InProcessGrid
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.sizing_section import Sizing
from fedmb.telemetry.sinks import JsonLines
from fedmb.training.recipe import Training

ASKED, UNANSWERED = 7_200, 9  # questions, and one of how many gets no answer
ANSWERED = ASKED - ASKED // UNANSWERED
LATE, HORIZON = 500, 1_000  # rows
ROUNDS = ANSWERED // BATCH // STEPS
QUESTION = {"number": Column("int64"), "x": Column("float32", (4,))}
ANSWER = {"number": Column("int64"), "y": Column("float32")}


class LateCounting:
    """Rows are numbered from 0, and their number is the key; the label is a function of the features."""

    schema = QUESTION | ANSWER
    label = "y"

    def build_model(self):
        return CountingModel(ASKED)

    def forward(self, model, rows):
        return torch.stack([model.line(rows["x"])[:, 0], model.learnt[rows["number"]]], 1)

    def loss(self, outputs, rows):
        return (outputs[:, 0] - rows["y"]) ** 2 - BATCH / RATE * outputs[:, 1]

    def metrics(self, outputs, rows):
        return {"distance": (outputs[:, 0] - rows["y"]).abs()}


def answered_numbers():
    """Which questions are answered, in the order of their answers."""
    numbers = np.arange(ASKED)
    due = numbers + np.random.default_rng(3).integers(0, LATE, ASKED)
    order = np.argsort(due, kind="stable")
    return order[order % UNANSWERED != 0]


def fill(asked, answered):
    """All questions, and their answers dealt out to two partitions, a record for each row."""
    x = np.random.default_rng(7).standard_normal((ASKED, 4), np.float32)
    order = answered_numbers()
    write(asked, 0, QUESTION, {"number": np.arange(ASKED), "x": x})
    for partition in range(2):
        mine = order[partition::2]
        write(answered, partition, ANSWER, {"number": mine, "y": x[mine].sum(1)})


def write(url, partition, schema, columns):
    codec, log = SampleCodec(schema), open_log(url)
    with closing(log.writer(url.partition("?")[0].rpartition("/")[2], partition)) as writer:
        writer.append_many(codec.encode_rows(columns), codec_headers(codec))


def learn(asked, answered, place):
    """A server and its one client, from the newest checkpoint in `place` to the round that learns the last answer."""
    torch.set_num_threads(1)
    path = place / "run"
    run = begun_or_new(path)
    training = Training(steps=STEPS, sizing=Sizing(size=BATCH), learning_rate=LearningRate(rate=RATE))
    tables = {
        "labels": {"source": answered, "key": "number", "horizon_rows": HORIZON},
        "streaming": {"patience_seconds": PATIENCE},
        "replay": {"share": 0.0},
    }
    settings = ClientSettings.model_validate(
        {"name": "a", "source": asked, "task": "late_counting:LateCounting", "state": place / "state", **tables}
    )
    client = trainer_for(settings, seed=0, training=training.model_dump())
    with closing(client.source):
        grid = InProcessGrid(client_app(lambda _: client), {2: {"client": "a"}})
        server = Server(LateCounting(), Rounds(count=ROUNDS), MiniBatchFedAvg(), run, seed=0, training=training)
        sink = JsonLines(run.metrics, after_round=server.state.version)
        server.train(grid, sinks=[sink])
        sink.close()
    run.close()
    (place / "done").touch()
