"""Sites that learn from streams of numbered rows, and a grid whose nodes answer when they are let: what was learnt can
be counted."""

import json
import threading

import numpy as np
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ledger import Ledger, Position, StreamPartition, joined, spans_from_json
from fedmb.simulation.grid import InProcessGrid
from fedmb.training.local_update import LocalUpdate
from fedmb.training.recipe import Training

ROWS_PER_RECORD = 4
BATCH, STEPS = 8, 2
ROUND_ROWS = BATCH * STEPS  # what a client learns in a round when its log holds that much
WEIGHTS = {"weight": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}


class Numbers:
    """Learns y = x from rows whose y is their number in the stream."""

    schema = {"x": Column("float32", (1,)), "y": Column("float32")}

    def build_model(self):
        return nn.Linear(1, 1)

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"] / 1000) ** 2

    def metrics(self, outputs, rows):
        return {}


class Site:
    """A log with a client that learns from it."""

    def __init__(self, place, name, patience_seconds=60.0):
        self.name = name
        self.log = FileLog.open(place / name, id=name, fsync=FsyncPolicy.never(), create=True)
        self.partition = StreamPartition(name, "rows", 0)
        self.codec = PackedCodec(Numbers.schema)
        self.appended = 0
        source = LogSource(self.log.reader("rows", [0]), [self.codec], patience_seconds=patience_seconds)
        training = Training.plain(batch_size=BATCH, steps=STEPS, learning_rate=0.01)
        self.trainer = LocalUpdate(Numbers(), source, training, client=name, seed=0, stream=source)

    def append(self, rounds=1):
        """Fill the log with what `rounds` rounds learn."""
        writer = self.log.writer("rows", 0)
        for _ in range(rounds * ROUND_ROWS // ROWS_PER_RECORD):
            y = np.arange(self.appended, self.appended + ROWS_PER_RECORD, dtype=np.float32)
            writer.append(self.codec.encode({"x": y[:, None] / 1000, "y": y}), codec_headers(self.codec))
            self.appended += ROWS_PER_RECORD
        writer.close()
        return self

    def learnt_rows(self, ledger):
        """Rows in front of the ledger's position."""
        offset, row = ledger.position(self.partition)
        return offset * ROWS_PER_RECORD + row


class Recording(MiniBatchFedAvg):
    """Keeps the spans of every reply that was let in."""

    def __init__(self):
        super().__init__()
        self.spans = []

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for reply in replies:
            self.spans.append(spans_from_json(json.loads(reply.content.config_records["update"]["spans"])))
        return super().aggregate_train(server_round, replies)

    def chained(self):
        """All of them one after the other; a gap or an overlap is an error."""
        whole = {}
        for spans in self.spans:
            whole = joined(whole, spans)
        return whole


class SlowGrid(InProcessGrid):
    """Nodes begin when they are asked; the answers of those in `held` arrive once they are let go.

    As on Flower's own grids, what has arrived comes together, and nothing is taken back.
    """

    def __init__(self, sites):
        self.sites = {10 + number: site for number, site in enumerate(sites)}
        app = client_app(lambda context: self.sites[context.node_id].trainer)
        super().__init__(app, {node: {} for node in self.sites})
        self.held = set()
        self.asked = []
        self._answers = {}

    def push_messages(self, messages):
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message_id, message in zip(ids, messages, strict=True):
            site = self.sites[message.metadata.dst_node_id]
            self.asked.append((int(message.metadata.group_id or 0), site.name))
            (self._answers[message_id],) = super().pull_messages([message_id])
        return ids

    def pull_messages(self, message_ids):
        arrived = [
            one
            for one in message_ids
            if one in self._answers and self.sites[self._answers[one].metadata.src_node_id].name not in self.held
        ]
        return [self._answers.pop(one) for one in arrived]

    def withdraw(self, message_ids):
        return []


def first_state(ledger=None):
    return ServerState(0, WEIGHTS, ledger or Ledger())


def loop_on(grid, rounds, *, on_round=lambda state, report: None, strategy=None, stop=None):
    return RoundLoop(grid, strategy or Recording(), Rounds(**rounds), on_round=on_round, stop=stop or threading.Event())


def ledger_at(**rows):
    """A ledger that stands so many rows into each site's log."""
    return Ledger(
        {StreamPartition(name, "rows", 0): Position(*divmod(count, ROWS_PER_RECORD)) for name, count in rows.items()}
    )
