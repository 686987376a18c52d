"""Scores a model on held-out rows; the result does not depend on the evaluation batch size."""

from __future__ import annotations

import math

import torch
from torch import nn

from fedmb.batch.minibatch import Columns, MiniBatch
from fedmb.training.tally import check_per_example
from fedmb.training.task import Task, tensors


def evaluate(
    task: Task, model: nn.Module, columns: Columns, *, batch_size: int = 1024, device: torch.device | None = None
) -> dict[str, float]:
    """Mean loss and metrics over all rows of `columns`, in float64 from sums over rows.

    The model is put into evaluation mode and back into the mode it was in.
    """
    device = device or torch.device("cpu")
    table = MiniBatch(columns)
    sums: dict[str, list[float]] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(table), batch_size):
                part = table.rows(start, min(start + batch_size, len(table)))
                rows = tensors(part, device)
                outputs = task.forward(model, rows)
                figures = {"loss": task.loss(outputs, rows), **task.metrics(outputs, rows)}
                for name, values in figures.items():
                    check_per_example(values, len(part))
                    sums.setdefault(name, []).append(float(values.double().sum()))
    finally:
        model.train(was_training)
    return {name: math.fsum(parts) / len(table) for name, parts in sums.items()}
