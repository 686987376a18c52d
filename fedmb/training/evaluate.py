"""Scores a model on held-out rows; the result does not depend on the evaluation batch size.

A row counts as much as the task's `units` say, where it has them, and 1 otherwise: a task whose loss is the mean over a
row's tokens names their number, so that the score is the mean over tokens, as training by `[rows.buckets]` counts them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fedmb.batch.minibatch import Columns, MiniBatch
from fedmb.errors import ShapeError
from fedmb.training.tally import check_per_example
from fedmb.training.task import Task, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


def evaluate(
    task: Task, model: nn.Module, columns: Columns, *, batch_size: int = 1024, device: torch.device | None = None
) -> dict[str, float]:
    """Mean loss and metrics over all units of `columns`, in float64 from sums over units; nan where there is no unit.

    The model is put into evaluation mode and back into the mode it was in.

    Raises:
        ShapeError: the task's losses, metrics or units are not one finite number a row.
    """
    device = device or torch.device("cpu")
    table = MiniBatch(columns, units=_units(task, columns))
    sums: dict[str, list[float]] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(table), batch_size):
                part = table.rows(start, min(start + batch_size, len(table)))
                rows = tensors(part, device)
                outputs = task.forward(model, rows)
                units = None if part.units is None else torch.from_numpy(part.units).to(device)
                figures = {"loss": task.loss(outputs, rows), **task.metrics(outputs, rows)}
                for name, values in figures.items():
                    check_per_example(values, len(part))
                    weighed = values.double()
                    if units is not None:  # a row without a unit may have no loss: 0 / 0 of its tokens
                        weighed = torch.where(units > 0, weighed * units, 0.0)
                    sums.setdefault(name, []).append(float(weighed.sum()))
    finally:
        model.train(was_training)
    total = float(table.effective_units().sum(dtype=np.float64))
    return {name: math.fsum(parts) / total if total else math.nan for name, parts in sums.items()}


def _units(task: Task, columns: Columns) -> NDArray[np.float32] | None:
    """What the task says that each row counts; None for 1 each."""
    count = getattr(task, "units", None)
    if count is None:
        return None
    units = np.asarray(count(columns), np.float32)
    rows = len(next(iter(columns.values())))
    if units.shape != (rows,) or not np.isfinite(units).all() or (units < 0).any():
        raise ShapeError(
            f"a task's units must be {rows} finite numbers of at least 0, one a row, got {units.shape} of "
            f"{units.dtype}; count what a row's loss is the mean over"
        )
    return units
