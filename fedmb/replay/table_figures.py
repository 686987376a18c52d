"""Figures of a table for people: how full it is, how old its rows are, how their priorities are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINS = 10


def priority_figures(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """How the chances of rows are spread, from a sampler's state; empty where all rows are equally likely.

    A chance is what a row is drawn in proportion to: its priority to the power of alpha, or its recency.
    """
    leaves = sampler.get("leaves")
    if leaves is None:
        return {}
    chances = np.asarray(leaves, np.float64).ravel()
    return spread(chances[chances > 0])


def age_figures(numbers: NDArray[np.int64], appended: int) -> dict[str, Any]:
    """How old rows are, counted in rows appended since; `numbers` count rows from 0 as they were appended."""
    return spread((appended - 1 - np.asarray(numbers)).astype(np.float64))


def spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Count, mean, least, largest and quartiles of numbers, and a histogram; as JSON values."""
    if not len(values):
        return {"count": 0}
    counts, edges = np.histogram(values, BINS)
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "min": float(values.min()),
        "quartiles": [low, middle, high],
        "max": float(values.max()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
