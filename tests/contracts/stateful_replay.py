"""Worlds of policies of a replay table, for the contract of states: samplers, removers and what they are made of."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from stateful_tables import WORLDS as TABLE_WORLDS

from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.class_members import ClassMembers
from fedmb.replay.free_slots import FreeSlots
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.prioritized import Annealed, Prioritized
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY = 12
DROPS_AT = {3: [0, 1], 6: [7]}  # the oldest rows, which leave no gap, and one in the middle


def fresh(make: Callable[[], Any]) -> Any:
    policy = make()
    policy.bind(CAPACITY)
    return policy


def drive_sampler(sampler: Any, step: int) -> list[list[float]]:
    """Two rows are stored, and more than are there come to be drawn in one pass."""
    random = np.random.default_rng(step)
    slots = np.arange(2 * step, 2 * step + 2) % CAPACITY
    sampler.store(slots, random.random(2) if step % 3 else None)
    if step in DROPS_AT:
        sampler.drop(np.array(DROPS_AT[step]))
        sampler.store(np.array(DROPS_AT[step]), None)
    sampler.reprioritize(slots[:1], 3 * random.random(1))
    draw = sampler.draw(2, random)
    weights = sampler.weights(draw, 9)
    return [[] if part is None else part.tolist() for part in (*draw, weights)]


def drive_remover(remover: Any, step: int) -> list[int]:
    """Five rows arrive."""
    random = np.random.default_rng(step)
    slots = remover.place(5, {"y": (np.arange(5) + step) ** 2 % 4}, random, random.random(5) if step % 2 else None)
    kept = np.unique(slots[slots >= 0])
    if step in DROPS_AT and len(kept) > 1:
        remover.reprioritize(kept[:1], random.random(1))
        remover.drop(kept[1:])
    return slots.tolist()


def drive_free(free: FreeSlots, step: int) -> list[int]:
    slots = free.take(3)
    free.give(slots[: step % 4])
    return slots.tolist()


def fresh_members() -> ClassMembers:
    members = ClassMembers(CAPACITY)
    members.reserve(2)
    return members


def drive_members(members: ClassMembers, step: int) -> list[int]:
    members.reserve(2 + step // 3)
    members.add(np.array([step % 2]), np.array([step]))
    members.move(step // 2, len(members.counts) - 1)
    if step == 5:
        members.remove(np.array([1, 3]))
        members.add(np.array([0, 1]), np.array([1, 3]))
    return members.classes.tolist()


def observe_members(members: ClassMembers) -> list[list[int]]:
    return [members.of(class_).tolist() for class_ in range(len(members.counts))]


def nothing(policy: Any) -> None:
    """For what shows itself in the outcome of a step."""


SAMPLERS = {
    "Uniform": Uniform,
    "Prioritized": functools.partial(Prioritized, 0.7, Annealed(0.4, rows=10), epsilon=0.01),
    "Recency": functools.partial(Recency, 4.0),
    "WithoutReplacement": WithoutReplacement,
}
REMOVERS = {
    "Fifo": Fifo,
    "Lifo": Lifo,
    "LowestPriority": LowestPriority,
    "Reservoir": Reservoir,
    "Reservoir-seed": functools.partial(Reservoir, seed=3, client="a"),
    "ClassBalanced": functools.partial(ClassBalanced, "y"),
    "ClassBalanced-seed": functools.partial(ClassBalanced, "y", seed=3, client="a"),
}
WORLDS = (
    {name: (functools.partial(fresh, make), drive_sampler, nothing) for name, make in SAMPLERS.items()}
    | {name: (functools.partial(fresh, make), drive_remover, nothing) for name, make in REMOVERS.items()}
    | {
        "FreeSlots": (lambda: FreeSlots(CAPACITY), drive_free, len),
        "ClassMembers": (fresh_members, drive_members, observe_members),
    }
    | TABLE_WORLDS
)
