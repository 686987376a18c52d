"""One mini-batch step whose gradient does not depend on how the batch is split.

    total = sum of units over the whole batch
    for micro in split(batch, micro_size):                     # memory, not mathematics
        outputs = task.forward(model, micro)
        losses  = task.loss(outputs, micro)                    # (examples,), never averaged by the task
        (losses * units(micro)).sum() / total  -> backward     # gradients add up
    optimizer.step()                                           # once a batch

So the gradient is sum(units * gradient) / sum(units) for any partition (invariant I2): unequal micro-batches, tails,
masked rows and importance weights included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedmb.errors import SettingsError, ShapeError
from fedmb.training.task import Task, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedmb.batch.minibatch import MiniBatch


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step saw. Sums stay on the device: reading them is left to whoever needs them, not to every step."""

    rows: int
    units: float
    sums: Mapping[str, Tensor]
    """Sums over units of the loss and the task's metrics, each a tensor of shape ()."""


class TrainStep:
    """Takes optimiser steps on one model.

    Args:
        task: gives outputs, losses and metrics.
        model: trained in place.
        optimizer: any `torch.optim.Optimizer` over the model's parameters.
        micro_size: most examples in memory at once; None keeps the batch whole. It changes memory, never the result.
        device: where the model lives.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_size: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        if micro_size is not None and micro_size < 1:
            raise SettingsError(f"micro_size must be at least 1, got {micro_size}; leave it out for no split")
        self.task = task
        self.model = model
        self.optimizer = optimizer
        self.micro_size = micro_size
        self.device = device or torch.device("cpu")

    def __call__(self, batch: MiniBatch) -> StepReport:
        """Learn one batch; a batch without units leaves the model alone.

        Raises:
            ShapeError: the task's loss is not of shape (examples,).
        """
        total = float(batch.effective_units().sum(dtype="float64"))
        if total == 0:
            return StepReport(len(batch), 0.0, {})
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro in micro_batches(batch, self.micro_size):
            for name, value in self._backward(micro, total).items():
                sums[name] = sums[name] + value if name in sums else value
        self.optimizer.step()
        return StepReport(len(batch), total, sums)

    def _backward(self, micro: MiniBatch, total: float) -> dict[str, Tensor]:
        rows = tensors(micro, self.device)
        outputs = self.task.forward(self.model, rows)
        losses = self.task.loss(outputs, rows)
        units = None
        if micro.units is not None or micro.mask is not None:
            units = torch.from_numpy(micro.effective_units()).to(self.device)
        loss_sum = weighted_sum(losses, units, len(micro))
        (loss_sum / total).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        with torch.no_grad():
            figures = {
                name: weighted_sum(values, units, len(micro))
                for name, values in self.task.metrics(outputs, rows).items()
            }
        return {"loss": loss_sum.detach(), **figures}


def micro_batches(batch: MiniBatch, micro_size: int | None) -> Iterator[MiniBatch]:
    """Consecutive parts of at most `micro_size` examples, as views."""
    if micro_size is None or len(batch) <= micro_size:
        yield batch
        return
    for start in range(0, len(batch), micro_size):
        yield batch.rows(start, min(start + micro_size, len(batch)))


def weighted_sum(values: Tensor, units: Tensor | None, examples: int) -> Tensor:
    """Sum of `values` `(examples,)` weighted by `units` `(examples,)`, 1 each when None.

    Raises:
        ShapeError: `values` has another shape, such as () after a mean.
    """
    if values.shape != (examples,):
        raise ShapeError(
            f"a task's losses and metrics must have shape ({examples},), one value an example, got "
            f"{tuple(values.shape)}; use reduction='none'"
        )
    return values.sum() if units is None else (values * units).sum()
