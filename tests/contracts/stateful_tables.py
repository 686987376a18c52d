"""Worlds of replay tables and what they are made of, for the contract of states."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.remover import Fifo
from fedmb.replay.replay_buffer import ReplayBuffer
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.row_ids import FifoIds, SlotIds
from fedmb.replay.row_store import RowStore
from fedmb.replay.sample_limit import SampleLimit
from fedmb.replay.table_contents import TableContents
from fedmb.replay.table_view import StoredRows
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

SCHEMA = {"x": Column("float32", (2,)), "y": Column("int64")}
CAPACITY = 12


def columns(step: int, count: int = 5) -> dict[str, Any]:
    y = np.arange(10 * step, 10 * step + count)
    return {"x": np.stack([y, -y], 1).astype(np.float32), "y": y}


def drive_table(table: ReplayTable | ReplayBuffer, step: int) -> list[Any]:
    """Five rows arrive, four are drawn and weighed, and some priorities come late."""
    ids = table.append(columns(step), priorities=1.0 + (np.arange(5) * step) % 3)
    if isinstance(table, ReplayTable) and step % 3 == 0:
        table.append_row((np.full(2, step, np.float32), step))
    sample = table.sample(4)
    table.reprioritize(sample.ids - (step == 5), np.arange(4.0) + step)
    drawn = {name: column.tolist() for name, column in sample.columns.items()}
    return [ids, drawn, sample.ids.tolist(), None if sample.weights is None else sample.weights.tolist()]


def fresh_buffer() -> ReplayBuffer:
    tables = {"new": ReplayTable(SCHEMA, 6, name="new"), "any": ReplayTable(SCHEMA, 9, remover=Reservoir(), name="any")}
    return ReplayBuffer(tables, weights={"new": 2, "any": 1}, seed=4)


def fresh_contents() -> TableContents:
    store = RowStore.in_memory(SCHEMA, CAPACITY)
    return TableContents(store, Uniform(), Fifo(), None, None, np.random.Generator(np.random.PCG64DXSM(3)))


def drive_contents(contents: TableContents, step: int) -> Any:
    ids, removed = contents.append(columns(step), 5, None)
    sample, _ = contents.sample(3, contents.random)
    return ids.tolist(), removed, sample.ids.tolist()


def drive_fifo(ids: FifoIds, step: int) -> list[int]:
    ids.appended += step
    ids.oldest = max(ids.oldest, ids.appended - ids.capacity)
    return ids.held().tolist()


def drive_ids(ids: SlotIds, step: int) -> list[int]:
    slots = (np.arange(3) + step * 2) % CAPACITY
    ids.give_up(slots)
    ids.appended += 3
    return ids.assign(slots[: 1 + step % 3]).tolist()


def fresh_limit() -> SampleLimit:
    return SampleLimit(CAPACITY, 3)


def drive_limit(limit: SampleLimit, step: int) -> list[int]:
    """Four rows that were drawn as often as the state says; a sampler of this step alone draws."""
    slots = (np.arange(4) + 4 * step) % CAPACITY
    if step >= 3:
        limit.drop(slots)
    limit.store(slots)
    sampler, ids = Uniform(), SlotIds(CAPACITY)
    sampler.bind(CAPACITY)
    sampler.store(slots, None)
    ids.assign(slots)
    view = StoredRows(RowStore.in_memory(SCHEMA, CAPACITY), ids, is_fifo=False)
    draw, _ = limit.draw(sampler, None, view, 7, np.random.default_rng(step))
    return draw.slots.tolist()


def drive_limiter(limiter: RateLimiter, step: int) -> list[bool]:
    may = [limiter.can_insert(step), limiter.can_sample(step)]
    if may[0]:
        limiter.inserted(step, step // 3)
    if may[1]:
        limiter.sampled(step)
    return may


WORLDS = {
    "ReplayTable": (functools.partial(ReplayTable, SCHEMA, CAPACITY), drive_table, len),
    "ReplayTable-priorities": (
        lambda: ReplayTable(SCHEMA, CAPACITY, sampler=Prioritized(), remover=LowestPriority()),
        drive_table,
        ReplayTable.statistics,
    ),
    "ReplayTable-limits": (
        lambda: ReplayTable(
            SCHEMA,
            CAPACITY,
            sampler=WithoutReplacement(),
            remover=Reservoir(),
            max_times_sampled=2,
            limiter=RateLimiter(1.0, 4, 100.0),
        ),
        drive_table,
        lambda table: (len(table), table.statistics().appended),
    ),
    "ReplayBuffer": (fresh_buffer, drive_table, len),
    "TableContents": (fresh_contents, drive_contents, lambda contents: len(contents.ids)),
    "FifoIds": (functools.partial(FifoIds, CAPACITY), drive_fifo, lambda ids: ids.ids_of(ids.held()).tolist()),
    "SlotIds": (functools.partial(SlotIds, CAPACITY), drive_ids, lambda ids: ids.ids_of(ids.held()).tolist()),
    "SampleLimit": (fresh_limit, drive_limit, lambda limit: limit.left),
    "RateLimiter": (lambda: RateLimiter(2.0, 3, 9.0), drive_limiter, lambda limiter: limiter.difference),
}
"""By class: how a new process would build it, one step, and what can be seen of it."""
