"""Clients whose loss is a parabola of one number: where algorithms settle is known in closed form.

Client 0 wants 0 and takes one step a round, client 1 wants 1 and takes five; both count the same, so 0.5 is right.
"""

import math

import numpy as np
import torch
from torch import nn

from fedmb.aggregation.rule_choice import Aggregation
from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy_choice import strategy_from
from fedmb.simulation.grid import InProcessGrid
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

STEPS = (1, 5)


class Parabola:
    """Half the squared distance of one parameter from each row's target."""

    schema = {"target": Column("float64")}

    def build_model(self):
        model = nn.Module()
        model.register_parameter("at", nn.Parameter(torch.full((), 0.9, dtype=torch.float64)))
        return model

    def forward(self, model, rows):
        return model.at - rows["target"]

    def loss(self, outputs, rows):
        return outputs.square() / 2

    def metrics(self, outputs, rows):
        return {}


class Federation:
    """Both clients and a server, whose rounds go on with every call of `run`."""

    def __init__(self, tmp_path, aggregation=None, *, rate=0.1, seed=0, **training):
        task = Parabola()
        self.aggregation = aggregation or Aggregation(weights="equal")
        self.training = Training.plain(batch_size=1, learning_rate=rate, epochs=1, **{"steps": math.inf, **training})
        self.state = ServerState(0, initial_arrays(task, seed), seed=seed)
        self.path = tmp_path
        self.seed = seed
        self.trainers = {
            f"client-{number}": LocalUpdate(
                task,
                TableSource({"target": np.full(steps, float(number))}, seed=seed, client=f"client-{number}"),
                self.training,
                client=f"client-{number}",
                seed=seed,
                directory=tmp_path / f"client-{number}",
            )
            for number, steps in enumerate(STEPS)
        }
        self.grid = InProcessGrid(
            client_app(lambda context: self.trainers[context.node_config["client"]]),
            {10 + number: {"client": name} for number, name in enumerate(self.trainers)},
        )
        self.reports = []
        self.strategy = None

    def fresh_strategy(self):
        return strategy_from(self.aggregation, self.training, Rounds(), Parabola(), seed=self.seed, directory=self.path)

    def run(self, count):
        """So many rounds more, by a server that was just started; where the model is then."""
        self.strategy = self.fresh_strategy()
        loop = RoundLoop(
            self.grid,
            self.strategy,
            Rounds(count=self.state.version + count),
            on_round=lambda state, report: self.reports.append(report),
        )
        self.state = loop.run(self.state)
        return float(self.state.arrays["at"])


def limit(federation):
    """Where a model that goes the same share of what is left in every round will settle, told from two rounds."""
    start = float(federation.state.arrays["at"])
    first, second = federation.run(1), federation.run(1)
    return start - (first - start) ** 2 / (second - 2 * first + start)


def contraction(rate, steps, *, pull=0.0):
    """Share of the way to its own optimum that a client goes in a round."""
    return (1 - (1 - rate * (1 + pull)) ** steps) / (1 + pull)
