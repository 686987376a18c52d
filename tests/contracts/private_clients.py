"""A private client on a small regression: its sources, and a round of it."""

import functools
import math

import numpy as np
from small_regression import Curve, columns

from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.batch.minibatch import MiniBatch
from fedmb.batch.poisson import PoissonSource
from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData
from fedmb.ledger import Position, Span, StreamPartition
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

ROWS = 60
STREAM = StreamPartition("log", "rows", 0)


class Records:
    """A stream of one partition, a row a record; a seek goes where it is told."""

    schema = Curve.schema
    examples_per_epoch = math.inf

    def __init__(self, rows=4000, origins=("stream",)):
        self.columns, self.at, self.origins = columns(rows), 0, origins

    def take(self, size):
        if self.at == len(self.columns["y"]):
            raise NotEnoughData("nothing arrived; wait longer")
        start, self.at = self.at, min(len(self.columns["y"]), self.at + size)
        part = {name: column[start : self.at] for name, column in self.columns.items()}
        span = {STREAM: Span(Position(start), Position(self.at))}
        return MiniBatch(part, span=span, origins=dict.fromkeys(self.origins, self.at - start))

    def position(self):
        return {"ledger": {str(STREAM): [self.at, 0]}}

    def seek(self, position):
        self.at = position["ledger"][str(STREAM)][0] if position else 0

    def close(self):
        pass


def table(rows=ROWS):
    return TableSource(columns(rows), seed=0, client="ward")


def chance(rows=ROWS):
    return PoissonSource(columns(rows), seed=0, client="ward")


def local(path, source=None, *, client="ward", seed=0, training=None, **told):
    told = {"clip_norm": 0.5, "randomness": "seeded"} | told
    chosen = {"batch_size": 10, "steps": 3} | (training or {})
    return LocalUpdate(
        Curve(),
        table() if source is None else source,
        Training.plain(**chosen),
        client=client,
        seed=seed,
        directory=path,
        privacy=ClientPrivacy(**told),
    )


BEFORE = initial_arrays(Curve(), 0)


def run(trainer, version=0, position=None):
    return trainer.run(BEFORE, base_version=version, position=position or {})


def change(update, before=BEFORE):
    return np.concatenate([(update.arrays[name].astype(np.float64) - before[name]).ravel() for name in sorted(before)])


@functools.cache
def times(count, noise=1.0, rate=1.0):
    return epsilon_of(((noise, rate, count),), 1e-5)
