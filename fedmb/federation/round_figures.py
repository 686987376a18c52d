"""Figures of a round, from what its clients sent: sums divided once, norms, noise and heterogeneity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedmb.aggregation.blockwise import changes
from fedmb.arrays.bfloat16 import is_real, widened
from fedmb.errors import ShapeError
from fedmb.sizing.noise_scale import heterogeneity, noise_of
from fedmb.telemetry.delayed_score import DELAYED, LABELS, TRAINED
from fedmb.telemetry.prequential import prequential_means
from fedmb.update import EPSILON, added

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays, Update

_TWO = 2  # groups, below which nothing can be said about variance


def summed(updates: Sequence[Update]) -> tuple[dict[str, int], dict[str, float]]:
    """Rows by origin and sums by name over all clients."""
    rows: dict[str, int] = {}
    sums: dict[str, float] = {}
    for update in updates:
        rows, sums = added(rows, update.rows), added(sums, update.sums)
    return rows, sums


def monitored(
    updates: Sequence[Update], before: Arrays, after: Arrays, stack: Stack, *, late: Collection[str] = ()
) -> dict[str, float]:
    """What to watch beside the loss; a figure that nobody measured is left out.

    `stack` holds the models that the updates brought, which need not carry them any more. Those of `late` clients were
    moved from another model, so their lengths are not compared.

    - `train_accuracy`, …: metrics of the clients' rows before each step;
    - `gradient_norm`: mean over the clients' steps, with a guard;
    - `update_ratio`: |change of the global model| / |global model|;
    - `skipped`: steps whose gradient was thrown away;
    - `wait_share`: part of the clients' time that they waited for rows;
    - `joules_measured`, `joules_modelled`: energy, only where every client knows its own;
    - `carbon_grams`: the same times `training.grams_per_kwh`, where the user gives it;
    - `prequential_loss`, `prequential_accuracy`, …: fresh rows of streams before they were learnt, over the last rows
      of each client (`training.prequential.window`); `fading_loss`, …: over all, with fading weights;
    - `delayed_prequential_loss`, `delayed_fading_loss`, …: the same of what the model said before labels that come
      later were there; `labels_waiting`, `labels_expired`, `labels_orphaned`: questions that wait for one, those that
      got none in time, and answers without a question, since the streams began;
    - `client_epsilon`: the largest that a client tells of its own privacy (`fedmb.training.private_update`);
    - `noise`, `dissimilarity`: see `across_clients`.
    """
    _, sums = summed(updates)
    figures = {"skipped": sums.get("skipped", 0.0), "update_ratio": _ratio(before, after)}
    if "gradient_norm" in sums and sums.get("steps"):
        figures["gradient_norm"] = sums["gradient_norm"] / sums["steps"]
    if sums.get("seconds"):
        figures["wait_share"] = sums["wait_seconds"] / sums["seconds"]
    for name in ("joules_measured", "joules_modelled", "carbon_grams"):
        if updates and all(name in update.sums for update in updates):
            figures[name] = sums[name]
    if told := [update.sums[EPSILON] for update in updates if EPSILON in update.sums]:
        figures["client_epsilon"] = max(told)
    figures |= {name: value for name, value in sums.items() if name.startswith(LABELS)}
    if units := sums.get("units"):
        figures |= {name: value / units for name, value in sums.items() if name.startswith(TRAINED)}
    said = {name.removeprefix(DELAYED): value for name, value in sums.items() if name.startswith(DELAYED)}
    figures |= {DELAYED + name: mean for name, mean in prequential_means(said).items()}
    return (
        figures
        | prequential_means(sums)
        | across_clients([one for one in updates if not {*late}.intersection(one.clients)], before, stack)
    )


def alarms_of(updates: Sequence[Update]) -> dict[str, int]:
    """Drift alarms by client; one that tells of none is left out."""
    found = {", ".join(one.clients): round(one.sums.get("alarms", 0.0)) for one in updates}
    return {client: count for client, count in found.items() if count}


def across_clients(updates: Sequence[Update], before: Arrays, stack: Stack) -> dict[str, float]:
    """Gradient noise scale, in rows, and dissimilarity of the clients (1 where they agree), told apart.

    A client's mean gradient over its round is taken as its change over the sum of its learning rates, which holds for
    plain SGD and small steps. Batch size cures noise, not heterogeneity: a large dissimilarity asks for another
    algorithm or fewer local steps. Needs two clients that measure their own noise (`training.noise_every`).
    """
    known = {
        ", ".join(one.clients): one
        for one in updates
        if one.weight > 0 and one.sums.get("rate") and "trace_units" in one.sums and ", ".join(one.clients) in stack
    }
    if len(known) < _TWO:
        return {}
    places = [number for number, client in enumerate(stack.clients) if client in known]
    clients = [known[stack.clients[place]] for place in places]
    sizes = np.array([one.weight for one in clients])
    rates = np.array([one.sums["rate"] for one in clients])
    shares = np.zeros(len(stack))
    shares[places] = sizes / sizes.sum() / rates
    squares, square_of_mean = changes(stack, before, shares)
    traces = [one.mean("trace_units") for one in clients]
    try:
        found = heterogeneity(sizes, (squares[places] / rates**2).tolist(), square_of_mean, traces)
    except (ShapeError, ValueError):
        return {}
    noise = noise_of(found.trace, found.gradient_square)
    if noise is None or not math.isfinite(noise):
        return {}
    return {"noise": noise, "dissimilarity": 1 + found.tau_square / found.gradient_square}


def _ratio(before: Arrays, after: Arrays) -> float:
    moved, size = _square(before, after), _square(before, {})
    return math.sqrt(moved / size) if size else 0.0


def _square(one: Arrays, other: Arrays) -> float:
    """Sum of squares of `one - other`, of `one` where `other` lacks it; floating arrays only."""
    total = 0.0
    for name, array in one.items():
        if is_real(array.dtype):
            difference = widened(array).astype(np.float64)
            if name in other:
                difference -= widened(other[name])
            total += float(np.vdot(difference, difference))
    return total
