"""What a user writes: a model, its loss for each example, its metrics. Importing this loads no torch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor, nn

    from fedmb.batch.minibatch import Columns, MiniBatch, Schema

Rows: TypeAlias = "Mapping[str, Tensor]"
"""Columns of a mini-batch as tensors on the training device, first axis `(examples, ...)`."""


@runtime_checkable
class Task(Protocol):
    """A learning problem. fedmb weighs, sums and divides; a task never averages over examples.

    A task may have `units(columns)` too: how much each row of held-out columns counts in a score, `(examples,)`, such
    as the tokens that its loss is the mean over. Without it each row counts 1.
    """

    schema: Schema
    """Columns that every mini-batch must have."""

    def build_model(self) -> nn.Module:
        """A fresh model; its random numbers come from torch's global generator, which the caller seeds."""
        ...

    def forward(self, model: nn.Module, rows: Rows) -> Any:  # whatever loss and metrics understand
        """Run the model on `rows`; the outcome goes to `loss` and `metrics`."""
        ...

    def loss(self, outputs: Any, rows: Rows) -> Tensor:  # what forward returned
        """Loss of each example, shape `(examples,)`, not averaged."""
        ...

    def metrics(self, outputs: Any, rows: Rows) -> Mapping[str, Tensor]:  # what forward returned
        """Figures of each example, each of shape `(examples,)`; they are summed over units like the loss."""
        ...


@runtime_checkable
class TaskWithData(Task, Protocol):
    """A task that brings its rows, so that one machine can play every client."""

    label: str
    """Integer column by which shares are skewed and streams drift."""

    def train_rows(self) -> Columns:
        """All training rows."""
        ...

    def test_rows(self) -> Columns:
        """Rows that no client sees; the global model is scored on them."""
        ...


BuildModel: TypeAlias = "Callable[[Task], nn.Module]"
"""Makes a task's model, such as `Training.build_model`, which puts other layers in."""


def load_task(name: str) -> Task:
    """The task that `name`, written `module:Class`, stands for.

    Raises:
        SettingsError: the module or class does not exist, or the class lacks a part of `Task`.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise SettingsError(f"a task is written module:Class, got {name!r}; for example fedmb.tasks.digits:Digits")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does, but last: a user's folder adds modules and hides none
        sys.path.append(here)
    try:
        task = getattr(importlib.import_module(module_name), attribute)()
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"task {name!r} must be importable, got: {error}; run where its module can be found, or set PYTHONPATH"
        ) from error
    if not isinstance(task, Task):
        wanted = ("schema", "build_model", "forward", "loss", "metrics")
        missing = [part for part in wanted if not hasattr(task, part)]
        raise SettingsError(
            f"task {name!r} must have {', '.join(wanted)}, lacks {missing}; see fedmb.training.task.Task"
        )
    return task


def tensors(batch: MiniBatch, device: torch.device) -> dict[str, Tensor]:
    """The batch's columns as tensors on `device`; on the CPU they share memory with writable arrays.

    Columns that are tensors already, as a ring on a device gives them, stay where they are.
    """
    import torch

    rows = {
        name: column
        if isinstance(column, torch.Tensor)
        else torch.from_numpy(column if column.flags.writeable else column.copy())
        for name, column in batch.columns.items()
    }
    if device.type == "cpu":
        return rows
    # A copy from pageable memory makes the host wait whatever it is asked; torch keeps pinned blocks to use again.
    return {
        name: (tensor.pin_memory() if tensor.is_cpu else tensor).to(device, non_blocking=True)
        for name, tensor in rows.items()
    }
