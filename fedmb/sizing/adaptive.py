"""Sizes that follow the gradient's noise. Each answers `start` until the figures it reads are known."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.sizing.policy import BatchSize, Figure, Progress, checked_start

if TYPE_CHECKING:
    from fedmb.sizing.stats import Stats


def mccandlish(start: int) -> BatchSize:
    """The noise scale itself: there a run costs twice the fewest steps and twice the fewest samples.

    Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.3.
    """
    return norm_test(1.0, start)


def norm_test(theta: float, start: int) -> BatchSize:
    """`noise / theta^2`: the batch gradient's expected error is `theta` times the gradient's norm.

    Raises:
        SettingsError: theta is not positive.

    Source: Byrd et al. 2012, Sample size selection in optimization methods for machine learning, Mathematical
    Programming 134; here solved for the size, in the form of Cockpit's `norm_test`.
    """
    if not 0 < theta < math.inf:
        raise SettingsError(f"theta must be positive, got {theta}; 1 gives the noise scale, 0.5 four times it")
    return BatchSize(functools.partial(_norm_test, theta, checked_start(start)), reads=frozenset({"noise"}))


def cabs(start: int) -> BatchSize:
    """`learning_rate * trace / loss`: noise falls with the loss, so the rate need not.

    Derived for plain SGD and a loss whose minimum is near 0. Keep the learning rate free of the batch size.

    Source: Balles et al. 2016, arXiv:1612.05086, equation 22.
    """
    reads: frozenset[Figure] = frozenset({"noise", "loss", "learning_rate"})
    return BatchSize(functools.partial(_cabs, checked_start(start)), reads=reads)


def _norm_test(theta: float, start: int, _progress: Progress, stats: Stats) -> float:
    noise = stats.noise
    return start if noise is None else noise / theta**2


def _cabs(start: int, progress: Progress, stats: Stats) -> float:
    rate, trace, loss = progress.learning_rate, stats.trace, stats.loss
    if rate is None or trace is None or loss is None:
        return start
    return rate * trace / loss if loss > 0 else math.inf
