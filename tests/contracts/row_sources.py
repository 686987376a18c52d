"""Sources of rows at rest for the contract in test_batch_source.py: each builder answers a function that opens one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.buckets import Buckets
from fedmb.batch.collate import ANY_LENGTH, Ragged, padded
from fedmb.batch.curriculum import Curriculum, root_pace
from fedmb.batch.dataset import dataset_source
from fedmb.batch.files import load_table
from fedmb.batch.graph import Graph, NeighbourTrees, graph_source
from fedmb.batch.minibatch import Column
from fedmb.batch.node_table import node_columns
from fedmb.batch.rows import Rows
from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[[], BatchSource]


def mapped_table(folder: Path) -> Opener:
    np.savez(folder / "table.npz", x=np.sqrt(np.arange(23)), y=np.arange(23) % 5)
    return lambda: TableSource(load_table(folder / "table.npz", mapped=True), seed=11, client="site")


def dataset(folder: Path, tail: str = "balance") -> Opener:
    rows = [{"x": np.full((2, 2), number, np.float32), "y": number % 5} for number in range(23)]
    return functools.partial(dataset_source, rows, seed=11, client="site", tail=tail)


def sentences() -> list[np.ndarray]:
    return [np.arange(1 + number * 7 % 11) + number for number in range(23)]


def padded_dataset(folder: Path) -> Opener:
    rows = list(enumerate(sentences()))
    tokens = {"tokens": Column("int64", (ANY_LENGTH,)), "tokens_mask": Column("bool", (ANY_LENGTH,))}
    collate = functools.partial(padded, ragged=["tokens"], names=["row", "tokens"])
    schema = {"row": Column("int64"), **tokens}
    return functools.partial(dataset_source, rows, seed=11, client="site", collate=collate, schema=schema)


def buckets(folder: Path, max_tokens: int | None = None) -> Opener:
    columns, rows = {"y": np.arange(23)}, {"tokens": Ragged.of(sentences())}
    return functools.partial(Buckets, rows, columns, pool=2, max_tokens=max_tokens, seed=11, client="site")


def padded_table(folder: Path) -> Opener:
    tokens, mask = Ragged.of(sentences()).padded(np.arange(23), length=12)
    columns = {"tokens": tokens, "tokens_mask": mask, "y": np.arange(23)}
    rows = Rows.model_validate({"buckets": {"pool": 2, "max_tokens": 24}})
    return functools.partial(rows.mixed, {"one": columns}, seed=11, client="site")


def curriculum(folder: Path, tail: str = "balance") -> Opener:
    columns = {"x": np.sqrt(np.arange(23)), "y": np.arange(23) % 5}
    return functools.partial(Curriculum, columns, "x", root_pace(0.4, 40), seed=11, client="site", tail=tail)


def graph(folder: Path) -> Opener:
    edges = np.random.default_rng(0).integers(0, 23, (2, 90))
    features = {"x": np.arange(46.0).reshape(23, 2)}
    trees = NeighbourTrees(Graph.of(edges, 23), [3, "all"], features)
    return functools.partial(graph_source, trees, seed=11, client="site")


def node_table(folder: Path) -> Opener:
    edges = np.random.default_rng(0).integers(0, 23, (2, 90))
    columns = {**node_columns(Graph.of(edges, 23)), "x": np.arange(23.0)}
    rows = Rows.model_validate({"graph": {"fan_outs": [3, 2]}})
    return functools.partial(rows.mixed, {"one": columns}, seed=11, client="site")
