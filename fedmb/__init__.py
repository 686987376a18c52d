"""fedmb: federated and online-streaming mini-batch learning on Flower, PyTorch and Kafka.

Public names are resolved on first use, so `import fedmb` loads no torch, flwr or kafka.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Column, MiniBatch
    from fedmb.batch.source import BatchSource
    from fedmb.batch.table import TableSource
    from fedmb.errors import FedmbError
    from fedmb.federation.client import client_app
    from fedmb.federation.rounds import RoundLoop, Rounds
    from fedmb.federation.strategy import MiniBatchFedAvg
    from fedmb.ingest.log_source import LogSource
    from fedmb.ledger import Ledger
    from fedmb.replay.blend import Blend
    from fedmb.replay.ring import Ring
    from fedmb.replay.uniform import UniformReplay
    from fedmb.simulation.grid import InProcessGrid
    from fedmb.training.local_update import LocalUpdate
    from fedmb.training.recipe import Training
    from fedmb.training.step import TrainStep
    from fedmb.training.task import Task
    from fedmb.update import Update

__version__ = "0.1.0"

_HOMES = {
    "BatchSource": "fedmb.batch.source",
    "Blend": "fedmb.replay.blend",
    "Column": "fedmb.batch.minibatch",
    "FedmbError": "fedmb.errors",
    "InProcessGrid": "fedmb.simulation.grid",
    "Ledger": "fedmb.ledger",
    "LocalUpdate": "fedmb.training.local_update",
    "LogSource": "fedmb.ingest.log_source",
    "MiniBatch": "fedmb.batch.minibatch",
    "MiniBatchFedAvg": "fedmb.federation.strategy",
    "Ring": "fedmb.replay.ring",
    "RoundLoop": "fedmb.federation.rounds",
    "Rounds": "fedmb.federation.rounds",
    "TableSource": "fedmb.batch.table",
    "Task": "fedmb.training.task",
    "TrainStep": "fedmb.training.step",
    "Training": "fedmb.training.recipe",
    "UniformReplay": "fedmb.replay.uniform",
    "Update": "fedmb.update",
    "client_app": "fedmb.federation.client",
}

__all__ = [
    "BatchSource",
    "Blend",
    "Column",
    "FedmbError",
    "InProcessGrid",
    "Ledger",
    "LocalUpdate",
    "LogSource",
    "MiniBatch",
    "MiniBatchFedAvg",
    "Ring",
    "RoundLoop",
    "Rounds",
    "TableSource",
    "Task",
    "TrainStep",
    "Training",
    "UniformReplay",
    "Update",
    "client_app",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedmb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
