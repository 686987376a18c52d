"""Gradient noise of one batch, measured while its gradients add up.

Each micro-batch is a group of rows drawn alike. What its backward pass adds to `.grad` is its share of the batch's
gradient, so the norm of every group's mean gradient is known without another pass; `fedmb.sizing.noise_scale` turns
the norms into the noise scale. A batch that fits into memory whole is cut in two for the measured step: the gradient
is the same, so measuring never changes what is learnt (invariant I1, up to rounding). On several ranks the shards are
the groups, and one small message more is all that it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fedmb.training.distributed import Ranks


class Groups(NamedTuple):
    """What `fedmb.sizing.stats.Stats.observe_groups` takes."""

    sizes: list[float]
    """Units of each group."""
    square_norms: list[float]
    """Squared norm of each group's mean gradient."""
    total_square_norm: float
    """Squared norm of the whole batch's mean gradient."""


class GroupNorms:
    """Collects the groups of one batch.

    Args:
        parameters: whose gradients add up; their gradients are None at the start.
        total: units of the whole batch.
        scale: factor on every gradient, such as a gradient scaler's; norms are given without it.
    """

    def __init__(self, parameters: Sequence[Tensor], total: float, *, scale: float = 1.0) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._total = total
        self._scale = scale
        self._before: list[Tensor | None] = [None] * len(self._parameters)
        self._sizes: list[float] = []
        self._squares: list[Tensor] = []

    def begin_if_cleared(self) -> None:
        """Forget the groups so far when all gradients were cleared: the batch starts again."""
        if self._sizes and all(parameter.grad is None for parameter in self._parameters):
            self._before = [None] * len(self._parameters)
            self._sizes.clear()
            self._squares.clear()

    def add(self, units: float) -> None:
        """Take the group whose backward pass has just ended; one without units is no group."""
        after = [parameter.grad for parameter in self._parameters]
        if units > 0:
            added = [
                now if before is None else now - before
                for now, before in zip(after, self._before, strict=True)
                if now is not None
            ]
            self._sizes.append(units)
            self._squares.append(_square_norm(added) * (self._total / units / self._scale) ** 2)
        self._before = [None if now is None else now.clone() for now in after]

    def report_of_ranks(self, ranks: Ranks) -> Groups | None:
        """The groups of all ranks, one each, after their gradients were added up; alike on every rank."""
        (units, square) = (self._sizes[0], float(self._squares[0])) if self._sizes else (0.0, 0.0)
        everyone = range(ranks.count)
        mine = {("units", rank): units * (rank == ranks.index) for rank in everyone}
        mine |= {("square", rank): square * (rank == ranks.index) for rank in everyone}
        found = ranks.total({f"{name} {rank:06}": value for (name, rank), value in mine.items()})
        pairs = [(found[f"units {rank:06}"], found[f"square {rank:06}"]) for rank in everyone]
        kept = [pair for pair in pairs if pair[0] > 0]
        if len(kept) < 2:  # noqa: PLR2004  # as in `report`
            return None
        whole = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        total = float(_square_norm(whole)) / self._scale**2
        return Groups([size for size, _ in kept], [each for _, each in kept], total)

    def report(self) -> Groups | None:
        """The groups of the batch; None when there were fewer than two, from which nothing can be told."""
        if len(self._sizes) < 2:  # noqa: PLR2004  # variance needs two
            return None
        whole = [gradient for gradient in self._before if gradient is not None]
        total = _square_norm(whole) / self._scale**2
        return Groups(self._sizes, [float(square) for square in self._squares], float(total))


def _square_norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm(list(tensors))  # noqa: SLF001  # torch's own way to one kernel for all tensors
    return torch.stack([norm.double() for norm in norms]).square().sum()
