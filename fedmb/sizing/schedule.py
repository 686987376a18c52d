"""Factors of the learning rate over a run, counted in samples and composed by multiplication.

    schedule = warmup(5 * rows, start=1 / 8) * cosine(90 * rows)

The argument is the number of rows learnt before the step. No schedule knows the batch size, so changing it in the
middle of a run leaves every factor at the same sample (invariant I3).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Schedule:
    """`samples -> factor`; two schedules are composed by `*`."""

    factor: Callable[[float], float]

    def __call__(self, samples: float) -> float:
        """Factor after `samples` rows."""
        return self.factor(samples)

    def __mul__(self, other: Schedule) -> Schedule:
        return Schedule(functools.partial(_product, self, other))


def constant(factor: float = 1.0) -> Schedule:
    """The same factor all along.

    Raises:
        SettingsError: the factor is negative or not finite.
    """
    return Schedule(functools.partial(_constant, _checked(factor)))


def warmup(samples: float, *, start: float) -> Schedule:
    """Rises in a straight line from `start` to 1 over `samples` rows, then stays.

    Goyal et al. take 5 epochs and start = 1/k for a batch k times the base size, so the first steps have the rate of
    the small batch.

    Raises:
        SettingsError: samples are negative or the start is not 0 to 1.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2.
    """
    if not 0 <= samples < math.inf or not 0 <= start <= 1:
        raise SettingsError(
            f"warmup needs samples of at least 0 and a start of 0 to 1, got {samples} and {start}; take 1/k to start"
        )
    return Schedule(functools.partial(_warmup, samples, start))


def cosine(total_samples: float, *, floor: float = 0.0) -> Schedule:
    """Falls from 1 to `floor` along half a cosine over `total_samples` rows, then stays.

    Raises:
        SettingsError: samples are not positive or the floor is not 0 to 1.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, section 3, without restarts.
    """
    if not 0 < total_samples < math.inf or not 0 <= floor <= 1:
        raise SettingsError(
            f"a cosine needs samples above 0 and a floor of 0 to 1, got {total_samples} and {floor}; count a run's rows"
        )
    return Schedule(functools.partial(_cosine, total_samples, floor))


def steps(factors: Mapping[int, float]) -> Schedule:
    """1 at first, and from each number of samples on the factor given for it: `{30_000: 0.1, 60_000: 0.01}`.

    Raises:
        SettingsError: a number of samples or a factor is negative, or there is none.
    """
    if not factors or min(factors) < 0:
        raise SettingsError(f"steps need numbers of samples of at least 0, got {dict(factors)}; add 30000 = 0.1")
    plan = tuple(sorted(((since, _checked(factor)) for since, factor in factors.items()), reverse=True))
    return Schedule(functools.partial(_steps, plan))


def _checked(factor: float) -> float:
    if not 0 <= factor < math.inf:
        raise SettingsError(f"a factor must be at least 0 and finite, got {factor}; 1 leaves the rate alone")
    return factor


# Module-level functions bound by partial instead of closures: a schedule can be pickled to a worker process.
def _product(one: Schedule, other: Schedule, samples: float) -> float:
    return one(samples) * other(samples)


def _constant(factor: float, _samples: float) -> float:
    return factor


def _warmup(length: float, start: float, samples: float) -> float:
    return 1.0 if samples >= length else start + (1 - start) * samples / length


def _cosine(total: float, floor: float, samples: float) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(samples / total, 1.0))) / 2


def _steps(plan: tuple[tuple[int, float], ...], samples: float) -> float:
    return next((factor for since, factor in plan if samples >= since), 1.0)
