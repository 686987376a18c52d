"""Ours, and stable-baselines3, which lives in our environment, for benchmarks/replay.py.

    PYTHON benchmarks/replay_contenders.py fedmb-numpy|fedmb-numba|stable-baselines3

Answers requests as `replay_items.serve` has them. `gather 256` reads the rows of random indices that are given, out of
the very memory of our table and with nothing around it: the limit of any design that keeps such rows.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

sys.path.append(sys.path.pop(0))  # files of libraries' names lie in this folder

from replay_items import (
    ADD,
    ADD_ONE,
    ALPHA,
    BATCH,
    BETA,
    LIMIT,
    PRIORITIZED,
    SAMPLE,
    Items,
    one_thread,
    priorities,
    serve,
    turning,
)

one_thread()

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Calls = dict[str, Callable[[], object]]


def fedmb(items: Items, capacity: int, prioritized: bool, kernels: str) -> Calls:
    from fedmb.batch.minibatch import schema_of
    from fedmb.replay.prioritized import Prioritized
    from fedmb.replay.replay_table import ReplayTable
    from fedmb.replay.row_store import RowStore

    sampler = Prioritized(ALPHA, BETA, kernels=kernels) if prioritized else None
    store = RowStore.in_memory(schema_of(items.columns), capacity)
    table = ReplayTable(store, sampler=sampler)
    batches, rows = items.batches(), [tuple(row.values()) for row in items.rows()]
    while len(table) < capacity:
        table.append(items.columns)
    row, batch, weights = turning(rows), turning(batches), turning(priorities())

    def cycle() -> None:
        sample = table.sample(BATCH)
        table.reprioritize(sample.ids, weights())

    if prioritized:
        return {PRIORITIZED: cycle}
    indices = turning([np.random.default_rng(seed).integers(0, capacity, BATCH) for seed in range(997)])
    return {
        ADD_ONE: lambda: table.append_row(row()),
        ADD: lambda: table.append(batch()),
        SAMPLE: lambda: table.sample(BATCH),
        LIMIT: gather(store, indices),
    }


def gather(store: Any, indices: Callable[[], np.ndarray]) -> Callable[[], object]:
    if store.layout == "rows":
        return lambda: store.read_block(indices())
    columns = [store.column(name) for name in store.schema]

    def read() -> None:
        places = indices()
        for column in columns:
            column.take(places, axis=0)

    return read


def stable_baselines3(items: Items, capacity: int, prioritized: bool) -> Calls:
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer

    torch.set_num_threads(1)
    if prioritized:
        return {}
    large = items.kind == "large"
    column = items.columns
    seen = spaces.Box(0, 255, column["obs"].shape[1:], np.uint8) if large else spaces.Box(-9, 9, (17,), np.float32)
    acts = spaces.Discrete(100) if large else spaces.Box(-9, 9, (6,), np.float32)

    def full(envs: int) -> ReplayBuffer:
        buffer = ReplayBuffer(
            capacity, seen, acts, "cpu", envs, optimize_memory_usage=large, handle_timeout_termination=not large
        )
        names = {"observations": "obs", "next_observations": "next_obs", "actions": "act", "rewards": "rew"}
        for target, name in {**names, "dones": "done"}.items():
            array = getattr(buffer, target, None)
            if array is not None and name in column:  # stored through its own arrays: `add` would take minutes
                flat = array.reshape(-1, *column[name].shape[1:])
                for start in range(0, len(flat), len(items)):
                    flat[start : start + len(items)] = column[name][: len(flat) - start]
        buffer.timeouts[:] = 0
        buffer.full = True
        return buffer

    def given(obs: Any, act: Any, rew: Any, done: Any, next_obs: Any = None) -> tuple[Any, ...]:
        return obs, obs if next_obs is None else next_obs, act, rew, done

    one = full(1)
    singles = [
        given(**{name: np.asarray(value, column[name].dtype)[None] for name, value in row.items()})
        for row in items.rows()
    ]
    many = functools.lru_cache(maxsize=1)(lambda: full(BATCH))
    row, batch = turning(singles), turning([given(**columns) for columns in items.batches()])
    no_news, news = [{}], [{} for _ in range(BATCH)]
    return {
        ADD_ONE: lambda: one.add(*row(), no_news),  # type: ignore[call-arg]  # of five
        ADD: lambda: many().add(*batch(), news),  # type: ignore[call-arg]
        SAMPLE: lambda: one.sample(BATCH),
    }


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "stable-baselines3":
        serve(
            stable_baselines3, f"{name} {version('stable-baselines3')}", libraries=["stable_baselines3.common.buffers"]
        )
    else:
        compiled = ["fedmb.replay.tree_kernels"] if name == "fedmb-numba" else []
        ours = functools.partial(fedmb, kernels=name.removeprefix("fedmb-"))
        serve(ours, name, libraries=["fedmb.replay.replay_table", "fedmb.replay.prioritized", *compiled])
