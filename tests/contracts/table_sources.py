"""Replay tables and buffers as sources, for the contract of sources."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_buffer import ReplayBuffer
from fedmb.replay.replay_source import ReplaySource
from fedmb.replay.replay_table import ReplayTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = {"x": Column("float32", (3,)), "y": Column("uint8")}


def stored(folder: Path, count: int) -> Callable[..., ReplayTable]:
    """How a table in a folder is opened, in which there are rows and their priorities."""
    opener = functools.partial(ReplayTable.mapped, folder, SCHEMA, 32, name=folder.name)
    numbers = np.arange(count)
    table = opener(sampler=Prioritized())
    x = (np.sqrt(numbers)[:, None] + np.arange(3)).astype(np.float32)
    table.append({"x": x, "y": (numbers % 5).astype(np.uint8)}, priorities=numbers + 1.0)
    table.snapshot()
    table.close()
    return lambda: opener(sampler=Prioritized())


def replay_table(folder: Path, id_column: str | None = None) -> Callable[[], ReplaySource]:
    table = stored(folder / "table", 40)
    return lambda: ReplaySource(table(), seed=11, client="site", id_column=id_column)


def replay_buffer(folder: Path) -> Callable[[], ReplaySource]:
    one, other = stored(folder / "one", 20), stored(folder / "other", 40)

    def open_buffer() -> ReplaySource:
        buffer = ReplayBuffer({"one": one(), "other": other()}, weights={"one": 2, "other": 1})
        return ReplaySource(buffer, seed=11, client="site")

    return open_buffer
