"""One mini-batch step whose gradient does not depend on how the batch is split.

    total = sum of units over the whole batch
    for micro in split(batch):                                 # memory, not mathematics
        with precision.forward():
            losses = task.loss(task.forward(model, micro))     # (examples,), never averaged by the task
        losses.backward(units(micro) / total)                  # gradients add up
    noise()                                                    # where every example was clipped by itself
    edits()                                                    # proximal term
    guard(parameters)                                          # OK, SKIP or ROLLBACK, once a batch
    optimizer.step()                                           # once a batch

So the gradient is sum(units * gradient) / sum(units) for any partition (invariant I2): unequal micro-batches, tails,
masked rows and importance weights included. The weights enter as the vector that backward is started with, which
spares the graph a sum and a division.

Where chance decides how many rows come (`MiniBatch.expected`), the sum is divided by what was to be expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from fedmb.training.distributed import Ranks
from fedmb.training.example_gradients import PROVED
from fedmb.training.guard import Verdict
from fedmb.training.microbatch import Split
from fedmb.training.noise import GroupNorms, Groups
from fedmb.training.precision import Precision
from fedmb.training.rollback import KeptBuffers
from fedmb.training.tally import Seen, check_per_example
from fedmb.training.task import Task, tensors
from fedmb.training.uncompiled import backward_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from fedmb.batch.minibatch import MiniBatch
    from fedmb.training.example_gradients import ExampleGradients
    from fedmb.training.guard import GradientGuard
    from fedmb.training.rollback import RollbackPoint


class GradientEdit(Protocol):
    """Changes the gradients of a whole batch in place, before the guard looks at them."""

    def add_to_gradients(self) -> None:
        """Change the gradients; called once a batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Its memory."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


class StepReport(NamedTuple):
    """What one step saw. Figures stay on the device: a tally reads them, not every step."""

    rows: int
    """Rows of the batch, or how many were to be expected."""
    units: float
    """Units that were learnt, or were to be expected; 0 when the step was skipped."""
    seen: Sequence[Seen]
    """Figures of each micro-batch; none when nothing was learnt."""
    verdict: Verdict = Verdict.OK
    norm: Tensor | None = None
    """Total gradient norm before clipping, shape (); None without a guard."""
    groups: Groups | None = None
    """Norms of the batch's groups, where noise was measured."""


class TrainStep:
    """Takes optimiser steps on one model.

    Args:
        task: gives outputs, losses and metrics.
        model: trained in place.
        optimizer: any `torch.optim.Optimizer` over the model's parameters.
        split: how a batch is cut to fit into memory; it never changes the result.
        precision: number format of the forward pass.
        private: clips the gradient of every example and adds noise to their sum; None takes them as they are.
        edits: applied in order once the gradients of a batch are complete.
        guard: judges the gradients of each batch; None lets all pass.
        rollback: where to go back to when the guard says so.
        ranks: this process among those of its client; every rank is given the whole batch and learns its shard.
        device: where the model lives.

    Raises:
        SettingsError: on several ranks a norm layer would see one rank's rows only.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        split: Split | None = None,
        precision: Precision | None = None,
        private: ExampleGradients | None = None,
        edits: Sequence[GradientEdit] = (),
        guard: GradientGuard | None = None,
        rollback: RollbackPoint | None = None,
        ranks: Ranks | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.task = task
        self.model = model
        self.optimizer = optimizer
        self.split = split or Split.whole()
        self.device = device or torch.device("cpu")
        self.precision = precision or Precision("fp32", device=self.device)
        self.private = private
        self.edits = tuple(edits)
        self.guard = guard
        self.rollback = rollback
        self.ranks = ranks or Ranks()
        self.ranks.align(model)
        # Batch norm has averaged a batch in before anybody judges it: what is skipped must leave no trace there.
        self._buffers = KeptBuffers(model) if guard is not None or self.precision.name == "fp16" else None
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._plain = self.precision.name == "fp32"
        self._even: dict[tuple[int, int], Tensor] = {}

    def __call__(self, batch: MiniBatch, *, measure: bool = False) -> StepReport:
        """Learn one batch; a batch without units leaves the model alone.

        Args:
            batch: what is learnt.
            measure: measure the batch's gradient noise too; a batch that is not split is cut in two for it.

        Raises:
            ShapeError: the task's loss is not of shape (examples,).
            Diverged: fp16 overflows at every scale.
        """
        even = batch.units is None and batch.mask is None
        total = float(batch.counted) if even else float(batch.effective_units().sum(dtype="float64"))
        if self.private is not None:
            self.private.begin(batch)
        if total == 0:
            return StepReport(batch.counted, 0.0, ())
        if self._buffers is not None:
            self._buffers.keep()
        for parameter in self._parameters:  # what zero_grad does, without the profiler hooks: 8 % of a small step
            parameter.grad = None
        seen, groups = self._gradients(batch, total, even=even, measure=measure)
        verdict, norm = self._update()
        if verdict is not Verdict.OK:
            self._go_back(verdict)
            return StepReport(batch.counted, 0.0, (), verdict, norm, groups)
        return StepReport(batch.counted, total, seen, verdict, norm, groups)

    def _gradients(
        self, batch: MiniBatch, total: float, *, even: bool, measure: bool
    ) -> tuple[Sequence[Seen], Groups | None]:
        """Leave the whole batch's gradients in the parameters; figures of its parts, and norms where wanted."""
        if self.private is not None and self.private.wants_proof and len(batch) >= PROVED:
            few = tensors(batch.rows(0, PROVED), self.device)
            self.private.prove(lambda rows: self.task.loss(self.task.forward(self.model, rows), rows), few)
        shard = self.ranks.shard(batch, multiple=self.split.multiple)
        seen: Sequence[Seen] = ()
        groups = None
        if measure and self.ranks.count == 1 and len(batch):
            seen, groups = self._measured(batch, total, even=even)
        elif self.split.is_whole and len(shard):
            seen = (self._backward(shard, total, even=even),)
        elif len(shard):
            seen = self.split.run(shard, lambda micro: self._backward(micro, total, even=even), self.model)
        if self.ranks.count > 1:
            groups = self._added_up(shard, total, even=even, measure=measure)
        if self.private is not None:
            self.private.add_noise(total)
        return seen, groups

    def _go_back(self, verdict: Verdict) -> None:
        """Take a refused batch out of running statistics, and the steps before it where the guard says so."""
        if self._buffers is not None:
            self._buffers.restore()
        if verdict is Verdict.ROLLBACK and self.rollback is not None:
            self.rollback.restore()

    def _measured(self, batch: MiniBatch, total: float, *, even: bool) -> tuple[list[Seen], Groups | None]:
        """The backward passes of at least two parts, with the norms of their gradients."""
        norms = GroupNorms(self._parameters, total, scale=self.precision.scale)

        def backward(micro: MiniBatch) -> Seen:
            norms.begin_if_cleared()  # memory may have run out, and the split starts again
            seen = self._backward(micro, total, even=even)
            norms.add(float(len(micro)) if even else float(micro.effective_units().sum(dtype="float64")))
            return seen

        return self.split.run(batch, backward, self.model, most=max(1, (len(batch) + 1) // 2)), norms.report()

    def _added_up(self, shard: MiniBatch, total: float, *, even: bool, measure: bool) -> Groups | None:
        """Make every rank's gradients those of the whole batch; answers the norms of the shards where wanted."""
        if not measure:
            self.ranks.add_up(self._parameters)  # before unscaling, so that every rank sees every overflow
            return None
        norms = GroupNorms(self._parameters, total, scale=self.precision.scale)
        norms.add(float(len(shard)) if even else float(shard.effective_units().sum(dtype="float64")))
        self.ranks.add_up(self._parameters)
        return norms.report_of_ranks(self.ranks)

    def _backward(self, micro: MiniBatch, total: float, *, even: bool) -> Seen:
        rows = tensors(micro, self.device)
        if self._plain:
            outputs = self.task.forward(self.model, rows)
            losses = self.task.loss(outputs, rows)
        else:
            with self.precision.forward():
                outputs = self.task.forward(self.model, rows)
                losses = self.task.loss(outputs, rows)
            losses = losses.float()
        check_per_example(losses, len(micro))
        units = None if even else torch.from_numpy(micro.effective_units()).to(self.device)
        weights = self._even_weights(len(micro), total, losses) if units is None else units.to(losses.dtype) / total
        if self.private is not None:
            self.private.backward(losses, total)
        else:
            backward_from(losses, weights if self._plain else self.precision.scaled(weights))
        figures = {"loss": losses.detach()}
        for name, values in self.task.metrics(outputs, rows).items():
            check_per_example(values, len(micro))
            figures[name] = values.detach()
        return Seen(figures, units)

    def _update(self) -> tuple[Verdict, Tensor | None]:
        """Edit and judge the gradients, then step, skip or go back."""
        if not self._plain:
            self.precision.unscale(self.optimizer)
        for edit in self.edits:
            edit.add_to_gradients()
        norm = None
        if self.guard is not None:
            verdict, norm = (report := self.guard(self._parameters)).verdict, report.norm
            if verdict is not Verdict.OK:
                self.precision.skip()
                return verdict, norm
        if self._plain:
            self.optimizer.step()
        elif not self.precision.step(self.optimizer):
            return Verdict.SKIP, norm
        if self.rollback is not None:
            self.rollback.after_step()
        return Verdict.OK, norm

    def _even_weights(self, examples: int, total: float, like: Tensor) -> Tensor:
        """1 / total for each example, made once for each size."""
        key = (examples, int(total))
        found = self._even.get(key)
        if found is None or found.dtype != like.dtype:
            found = self._even[key] = torch.full((examples,), 1 / total, dtype=like.dtype, device=self.device)
        return found
