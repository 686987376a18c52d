"""Batches remembered: rings and tables of rows, what chooses which of them are drawn and which go, and their service.

Public names are resolved on first use, so `import fedmb.replay` loads no numpy and no grpc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.replay.blend import Blend
    from fedmb.replay.class_balanced import ClassBalanced
    from fedmb.replay.hindsight import Hindsight
    from fedmb.replay.limiter import RateLimiter
    from fedmb.replay.long_memory import LongMemory
    from fedmb.replay.loss_memory import LossMemory
    from fedmb.replay.lowest_priority import LowestPriority
    from fedmb.replay.n_step import NStep
    from fedmb.replay.prioritized import Annealed, Prioritized
    from fedmb.replay.reader import Rows
    from fedmb.replay.recency import Recency
    from fedmb.replay.remote import RemoteTable
    from fedmb.replay.remover import Fifo, Lifo
    from fedmb.replay.replay_buffer import ReplayBuffer
    from fedmb.replay.replay_source import ReplaySource
    from fedmb.replay.replay_table import ReplayTable
    from fedmb.replay.reservoir import Reservoir
    from fedmb.replay.ring import Ring
    from fedmb.replay.ring_view import RingView
    from fedmb.replay.row_store import RowStore
    from fedmb.replay.sample import MixedSample, Sample
    from fedmb.replay.sharded import ShardedTable
    from fedmb.replay.table_statistics import TableStatistics
    from fedmb.replay.trajectory import Windows
    from fedmb.replay.uniform import UniformReplay
    from fedmb.replay.uniform_sampler import Uniform
    from fedmb.replay.vector_env import VectorRecorder, transition_schema
    from fedmb.replay.without_replacement import WithoutReplacement

_HOMES = {
    "Annealed": "prioritized",
    "Blend": "blend",
    "ClassBalanced": "class_balanced",
    "Fifo": "remover",
    "Hindsight": "hindsight",
    "Lifo": "remover",
    "LongMemory": "long_memory",
    "LossMemory": "loss_memory",
    "LowestPriority": "lowest_priority",
    "MixedSample": "sample",
    "NStep": "n_step",
    "Prioritized": "prioritized",
    "RateLimiter": "limiter",
    "Recency": "recency",
    "RemoteTable": "remote",
    "ReplayBuffer": "replay_buffer",
    "ReplaySource": "replay_source",
    "ReplayTable": "replay_table",
    "Reservoir": "reservoir",
    "Ring": "ring",
    "RingView": "ring_view",
    "RowStore": "row_store",
    "Rows": "reader",
    "Sample": "sample",
    "ShardedTable": "sharded",
    "TableStatistics": "table_statistics",
    "Uniform": "uniform_sampler",
    "UniformReplay": "uniform",
    "VectorRecorder": "vector_env",
    "Windows": "trajectory",
    "WithoutReplacement": "without_replacement",
    "transition_schema": "vector_env",
}

__all__ = [
    "Annealed",
    "Blend",
    "ClassBalanced",
    "Fifo",
    "Hindsight",
    "Lifo",
    "LongMemory",
    "LossMemory",
    "LowestPriority",
    "MixedSample",
    "NStep",
    "Prioritized",
    "RateLimiter",
    "Recency",
    "RemoteTable",
    "ReplayBuffer",
    "ReplaySource",
    "ReplayTable",
    "Reservoir",
    "Ring",
    "RingView",
    "RowStore",
    "Rows",
    "Sample",
    "ShardedTable",
    "TableStatistics",
    "Uniform",
    "UniformReplay",
    "VectorRecorder",
    "Windows",
    "WithoutReplacement",
    "transition_schema",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
