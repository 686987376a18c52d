"""Worlds of what learns online, for the contract of states: scores, detectors, answers to alarms, late labels."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedmb.batch.minibatch import MiniBatch
from fedmb.batch.table import TableSource
from fedmb.sizing.adwin import Adwin
from fedmb.sizing.page_hinkley import PageHinkley
from fedmb.telemetry.delayed_score import DelayedScore
from fedmb.telemetry.prequential import Prequential
from fedmb.training.drift import Drift, DriftResponse
from fedmb.training.fresh_watch import FreshWatch
from fedmb.training.step import StepReport
from fedmb.training.tally import Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOSSES = (0.2, 0.3, 0.2, 0.25, float("nan"), 3.0, 3.1, 2.9, 3.3)
ANSWER = Drift(detector="page-hinkley", rewarm=2.0, rewarm_samples=50, shrink=0.5, shrink_samples=30)


def drive_prequential(score: Prequential, step: int) -> bool:
    return score.observe(step + 1, {"units": step + 1.0, "loss": LOSSES[step] * (step + 1) / 3})


def drive_detector(detector: PageHinkley | Adwin, step: int) -> list[bool]:
    level = LOSSES[step] if np.isfinite(LOSSES[step]) else 0.1
    return [detector.observe(level + number / 70, 1 + number) for number in range(7)]


def drive_response(response: DriftResponse, step: int) -> None:
    if step in {2, 6}:
        response.begin(10 * step)


def observe_response(response: DriftResponse) -> Any:
    return [(response.rate_factor(now), response.size(16, now), response.share(now)) for now in (20, 40, 60, 90)]


def squared(predictions: NDArray[Any], answers: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"loss": (predictions - answers) ** 2}


def drive_delayed(score: DelayedScore, step: int) -> int:
    score.ask(np.arange(3) + 3 * step, np.float32([step, 1 / 3, step / 7]))
    return score.answer(np.array([3 * step, 3 * step - 4, 99]), np.array([1.0, 0.3, 0.0]))


def fresh_watch() -> FreshWatch:
    return FreshWatch(
        TableSource({"x": np.zeros(8)}, seed=0, client="a"),
        prequential=Prequential(window=20),
        detector=PageHinkley(threshold=5.0, min_rows=8),
        response=DriftResponse(ANSWER),
        every=4,
    )


def drive_watch(watch: FreshWatch, step: int) -> list[int]:
    """Three steps, of which only every fourth answers an alarm."""
    sizes = []
    for number in range(3 * step, 3 * step + 3):
        sizes.append(watch.before_step(number, 4 * number, 16))
        batch = MiniBatch({"x": np.zeros(4)}, origins={"stream": 3, "replay": 1})
        seen = Seen({"loss": torch.full((4,), LOSSES[step]) + torch.arange(4) / 9}, None)
        watch.after_step(batch, StepReport(4, 4.0, (seen,)), 4 * number + 4)
    return sizes


WORLDS = {
    "Prequential": (lambda: Prequential(window=9, fading=0.9), drive_prequential, lambda one: (one.sums(), one.rows)),
    "PageHinkley": (
        lambda: PageHinkley(threshold=4.0, delta=0.05, min_rows=3),
        drive_detector,
        lambda one: one.state_dict()["excess"],
    ),
    "Adwin": (functools.partial(Adwin, clock=2), drive_detector, lambda one: (one.width, one.mean, one.variance)),
    "DriftResponse": (functools.partial(DriftResponse, ANSWER), drive_response, observe_response),
    "DelayedScore": (
        lambda: DelayedScore(squared, Prequential(), horizon_rows=5),
        drive_delayed,
        lambda one: (one.score.sums(), len(one), one.expired, one.orphans),
    ),
    "FreshWatch": (fresh_watch, drive_watch, lambda one: one.sums()["fading_loss"] if one.alarms else None),
}
"""By class: how a new process would build it, one step, and what can be seen of it. All their states are JSON."""
