"""Sizes that spare energy: goodput with joules in place of seconds, and a budget that must suffice.

A step of B rows takes e + f B joules, so a row takes f + e / B: larger batches share the fixed part. Both rules are
corollaries of that line and of `fedmb.sizing.goodput`; without measured joules they stay at their start size, so
`[training]` refuses them where nothing measures joules and no `watts` model them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.sizing.goodput import best_size, relative_gain
from fedmb.sizing.policy import BatchSize, Figure, Progress, checked_start, relative_change

if TYPE_CHECKING:
    from fedmb.sizing.stats import Stats

READS: frozenset[Figure] = frozenset({"noise", "joules"})


def energy_goodput(start: int) -> BatchSize:
    """`sqrt(noise * fixed / slope)` in joules: the most progress a joule on this machine."""
    return BatchSize(functools.partial(_energy_goodput, checked_start(start)), reads=READS, worth=energy_gain)


def energy_budget(joules: float, samples: int, *, start: int) -> BatchSize:
    """The smallest size, from `start` up, with which the rest of `samples` rows fits into the rest of `joules`.

    Small batches learn more from a row, large ones spend less on it; this takes the first as long as the second
    allows. Where no size suffices it answers `math.inf`, so the bound of `.clip` is met.

    Raises:
        SettingsError: joules or samples are not positive.
    """
    if not joules > 0 or samples < 1:
        raise SettingsError(
            f"an energy budget needs joules above 0 and at least 1 sample, got {joules} and {samples}; "
            "give what the run may spend and how many rows it shall learn"
        )
    rule = functools.partial(_energy_budget, joules, samples, checked_start(start))
    return BatchSize(rule, reads=frozenset({"joules"}))


def energy_gain(held: float, proposed: float, stats: Stats) -> float:
    """Relative gain in progress a joule; the relative change of the size where that is not known."""
    gain = relative_gain(held, proposed, stats.noise, stats.joules_line)
    return relative_change(held, proposed, stats) if gain is None else gain


def _energy_goodput(start: int, _progress: Progress, stats: Stats) -> float:
    noise, cost = stats.noise, stats.joules_line
    return start if noise is None or cost is None else best_size(noise, cost)


def _energy_budget(joules: float, samples: int, start: int, progress: Progress, stats: Stats) -> float:
    cost, rows_left = stats.joules_line, samples - progress.samples
    if cost is None or rows_left <= 0:
        return start
    for_sharing = (joules - stats.joules) / rows_left - cost.slope
    if for_sharing <= 0:
        return math.inf
    return max(float(start), cost.fixed / for_sharing)
