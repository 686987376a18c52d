"""Draws in proportion to values on a device: sums over blocks of blocks of leaves.

32 leaves make a block, 32 blocks a block of blocks, up to one that holds all: four levels for a million leaves. A draw
goes down level by level for all its targets at once, an update recomputes the blocks above what it wrote. Nothing on
the way asks the device for a number, so the host runs ahead of it.

A sum over the first children of a block is a product with a triangle of ones: `torch.cumsum` of floats is refused on a
GPU where results must repeat, and takes as long. Sums of different lengths round differently, so that a child that is 0
may seem to reach further than the one before it: only children above 0 are ever chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

RADIX = (
    128  # 12 calls a level: three levels for two million leaves, where 64 takes four and 1024 reads eight times more
)


class DeviceSums:
    """Leaves 0 to `capacity` - 1, float64 and zero at first, drawn in proportion to their values.

    Args:
        capacity: number of leaves.
        device: where they lie.
        radix: leaves of a block.
    """

    def __init__(self, capacity: int, device: torch.device, *, radix: int = RADIX) -> None:
        sizes = level_sizes(capacity, radix)
        self._capacity = capacity
        self._radix = radix
        self._spare = sizes[0]  # behind all leaves: takes what must not be written, and is never read
        self._written = torch.zeros(sizes[0] + 1, dtype=torch.float64, device=device)
        above = [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes[1:]]
        self._levels = [self._written[: sizes[0]], *above]
        self._groups = [level.view(-1, radix) for level in self._levels]
        self._triangle = torch.ones(radix, radix, dtype=torch.float64, device=device).triu_()
        self._children = torch.arange(radix, device=device)

    @property
    def leaves(self) -> Tensor:
        """Every leaf, a live view not to be written to."""
        return self._written[: self._capacity]

    def total(self) -> Tensor:
        """Sum of all leaves, shape ()."""
        return self._levels[-1].sum()

    def fill(self, start: int, stop: int, values: Tensor) -> None:
        """Set leaves `start` to `stop` - 1, at least one, to values of 0 or more; one value goes to all."""
        self._written[start:stop] = values
        for groups, parents in zip(self._groups, self._levels[1:], strict=False):
            start, stop = start // self._radix, (stop - 1) // self._radix + 1
            parents[start:stop] = groups[start:stop].sum(1)

    def put(self, slots: Tensor, values: Tensor, where: Tensor) -> None:
        """Set leaves to values of 0 or more.

        Args:
            slots: int64 `(n,)`; distinct where they are written.
            values: float64 `(n,)`.
            where: bool `(n,)`, which of them are written; the others may be anything.
        """
        self._written[torch.where(where, slots, self._spare)] = values
        nodes = torch.where(where, slots, 0)
        for groups, parents in zip(self._groups, self._levels[1:], strict=False):
            nodes = torch.div(nodes, self._radix, rounding_mode="floor")
            parents[nodes] = groups.index_select(0, nodes).sum(1)  # a block that comes twice gets the same sum twice

    def draw(self, chances: Tensor) -> Tensor:
        """The leaf on which each target lies, the leaves laid end to end; one that is 0 is never drawn.

        Args:
            chances: float64 `(n,)`, targets from 0 up to the total; at least one leaf is above 0.
        """
        targets = chances[:, None]
        nodes = torch.zeros(len(chances), dtype=torch.int64, device=chances.device)
        for groups in reversed(self._groups):
            values = groups.index_select(0, nodes)  # (n, radix)
            ends = values @ self._triangle
            possible = values > 0
            last = torch.where(possible, self._children, -1).amax(1, keepdim=True)
            child = torch.where(possible & (ends > targets), self._children, last).amin(1, keepdim=True)
            targets = targets - (ends.gather(1, child) - values.gather(1, child))
            nodes = nodes * self._radix + child[:, 0]
        return nodes

    def stored(self) -> list[Tensor]:
        """Every level in fresh tensors on the CPU: sums too, since other calls may have rounded them otherwise."""
        return [self.leaves.cpu().clone(), *(level.cpu().clone() for level in self._levels[1:])]

    def load(self, levels: Sequence[Tensor]) -> None:
        """Set every level to what `stored` gave.

        Raises:
            ShapeError: it was stored for another capacity.
        """
        wanted = [self._capacity, *(len(level) for level in self._levels[1:])]
        if [len(level) for level in levels] != wanted:
            raise ShapeError(f"levels must be of {wanted} values, got {[len(level) for level in levels]}; use those")
        for target, level in zip([self.leaves, *self._levels[1:]], levels, strict=True):
            target.copy_(level)


def level_sizes(capacity: int, radix: int) -> list[int]:
    """Values of each level, leaves first, whole blocks; the last level is one block."""
    sizes, count = [], capacity
    while True:
        sizes.append(-(-count // radix) * radix)
        if count <= radix:
            return sizes
        count = sizes[-1] // radix
