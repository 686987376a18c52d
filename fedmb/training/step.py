"""One mini-batch step whose gradient does not depend on how the batch is split.

    total = sum of units over the whole batch
    for micro in split(batch, micro_size):                     # memory, not mathematics
        outputs = task.forward(model, micro)
        losses  = task.loss(outputs, micro)                    # (examples,), never averaged by the task
        losses.backward(units(micro) / total)                  # gradients add up
    optimizer.step()                                           # once a batch

So the gradient is sum(units * gradient) / sum(units) for any partition (invariant I2): unequal micro-batches, tails,
masked rows and importance weights included. The weights enter as the vector that backward is started with, which
spares the graph a sum and a division.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from fedmb.errors import SettingsError
from fedmb.training.tally import Seen, check_per_example
from fedmb.training.task import Task, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from fedmb.batch.minibatch import MiniBatch


class StepReport(NamedTuple):
    """What one step saw. Figures stay on the device: a tally reads them, not every step."""

    rows: int
    units: float
    seen: Sequence[Seen]
    """Figures of each micro-batch; none when the batch had no units."""


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
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._even: dict[tuple[int, int], Tensor] = {}

    def __call__(self, batch: MiniBatch) -> StepReport:
        """Learn one batch; a batch without units leaves the model alone.

        Raises:
            ShapeError: the task's loss is not of shape (examples,).
        """
        even = batch.units is None and batch.mask is None
        total = float(len(batch)) if even else float(batch.effective_units().sum(dtype="float64"))
        if total == 0:
            return StepReport(len(batch), 0.0, ())
        for parameter in self._parameters:  # what zero_grad does, without the profiler hooks: 8 % of a small step
            parameter.grad = None
        seen = [self._backward(micro, total, even=even) for micro in micro_batches(batch, self.micro_size)]
        self.optimizer.step()
        return StepReport(len(batch), total, seen)

    def _backward(self, micro: MiniBatch, total: float, *, even: bool) -> Seen:
        rows = tensors(micro, self.device)
        outputs = self.task.forward(self.model, rows)
        losses = self.task.loss(outputs, rows)
        check_per_example(losses, len(micro))
        units = None if even else torch.from_numpy(micro.effective_units()).to(self.device)
        weights = self._even_weights(len(micro), total, losses) if units is None else units.to(losses.dtype) / total
        torch.autograd.backward(losses, weights)
        figures = {"loss": losses.detach()}
        for name, values in self.task.metrics(outputs, rows).items():
            check_per_example(values, len(micro))
            figures[name] = values.detach()
        return Seen(figures, units)

    def _even_weights(self, examples: int, total: float, like: Tensor) -> Tensor:
        """1 / total for each example, made once for each size."""
        key = (examples, int(total))
        found = self._even.get(key)
        if found is None or found.dtype != like.dtype:
            found = self._even[key] = torch.full((examples,), 1 / total, dtype=like.dtype, device=self.device)
        return found


def micro_batches(batch: MiniBatch, micro_size: int | None) -> Iterator[MiniBatch]:
    """Consecutive parts of at most `micro_size` examples, as views."""
    if micro_size is None or len(batch) <= micro_size:
        yield batch
        return
    for start in range(0, len(batch), micro_size):
        yield batch.rows(start, min(start + micro_size, len(batch)))
