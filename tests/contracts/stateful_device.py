"""Worlds of rings on a device, for the contract of states."""

from __future__ import annotations

import functools
from typing import Any

import torch
from stateful_tables import CAPACITY, SCHEMA, columns

from fedmb.replay.prioritized import Annealed
from fedmb.training.device_prioritized import DevicePrioritized
from fedmb.training.device_ring import DeviceRing


def prioritized() -> DevicePrioritized:
    return DevicePrioritized(0.7, Annealed(0.4, rows=20))


def fresh_sampler() -> DevicePrioritized:
    sampler = prioritized()
    sampler.bind(CAPACITY, torch.device("cpu"))
    return sampler


def drive_sampler(sampler: DevicePrioritized, step: int) -> list[Any]:
    """Two rows are stored and one is weighed."""
    random = torch.Generator().manual_seed(step)
    sampler.store(2 * step, 2, torch.rand(2, dtype=torch.float64, generator=random) if step % 3 else None)
    asked = 3 * torch.rand(1, dtype=torch.float64, generator=random)
    sampler.reprioritize(torch.tensor([step]), asked, torch.tensor([step % 4 > 0]))
    draw = sampler.draw(2, random)
    return [*(part.tolist() for part in draw), sampler.weights(draw.probabilities, 9).tolist()]


def drive_ring(ring: DeviceRing, step: int) -> list[Any]:
    """Five rows arrive, four are drawn and weighed, and some priorities come late."""
    ids = ring.append(columns(step), priorities=1.0 + (torch.arange(5) * step) % 3)
    if step % 3 == 0:
        ring.append_row((columns(step)["x"][0], step))
    sample = ring.sample(4)
    ring.reprioritize(sample.ids - int(step == 5), torch.arange(4.0) + step)
    drawn = {name: column.tolist() for name, column in sample.columns.items()}
    return [ids.tolist(), drawn, sample.ids.tolist(), None if sample.weights is None else sample.weights.tolist()]


WORLDS = {
    "DeviceRing": (functools.partial(DeviceRing, SCHEMA, CAPACITY, device="cpu"), drive_ring, DeviceRing.statistics),
    "DeviceRing-priorities": (
        lambda: DeviceRing(SCHEMA, CAPACITY, device="cpu", sampler=prioritized()),
        drive_ring,
        DeviceRing.statistics,
    ),
    "DevicePrioritized": (fresh_sampler, drive_sampler, lambda sampler: sampler.leaves.tolist()),
}
"""By class: how a new process would build it, one step, and what can be seen of it."""
