"""A regression without random numbers, and what takes a step on it."""

import numpy as np
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.training.step import TrainStep


class Curve:
    """A small regression without random numbers."""

    schema = {"x": Column("float32", (6,)), "y": Column("float32")}

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


def columns(rows=60, seed=0):
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((rows, 6)).astype(np.float32), "y": np.arange(rows, dtype=np.float32) / 9}


def fresh(optimizer=torch.optim.SGD, **settings):
    torch.manual_seed(0)
    model = Curve().build_model()
    return model, optimizer(model.parameters(), **{"lr": 0.1} | settings)


def stepper(model, optimizer, **parts):
    return TrainStep(Curve(), model, optimizer, **parts)


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])
