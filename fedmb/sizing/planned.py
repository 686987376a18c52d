"""Sizes that are known before the run: they read the number of rows learnt and nothing else."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.sizing.policy import BatchSize, Progress, checked_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.sizing.schedule import Schedule
    from fedmb.sizing.stats import Stats


def fixed(size: int) -> BatchSize:
    """Always `size`; 1 is stochastic gradient descent.

    Raises:
        SettingsError: the size is below 1.
    """
    return BatchSize(functools.partial(_fixed, checked_start(size)), largest=size)


def full(num_rows: int) -> BatchSize:
    """All rows of a table in one step, which is gradient descent; micro-batches keep it in memory.

    Raises:
        SettingsError: the table has no row.
    """
    return fixed(num_rows)


def milestones(sizes: Mapping[int, int]) -> BatchSize:
    """From each number of samples on, the size given for it: `{0: 32, 50_000: 128}`.

    Raises:
        SettingsError: there is none for 0 samples, a number of samples is negative or a size below 1.
    """
    if 0 not in sizes or min(sizes) < 0 or min(sizes.values()) < 1:
        raise SettingsError(
            f"milestones must start at 0 samples and have sizes of at least 1, got {dict(sizes)}; add 0 = 32",
            key="milestones",
        )
    plan = tuple(sorted(sizes.items(), reverse=True))
    return BatchSize(functools.partial(_milestones, plan), largest=max(sizes.values()))


def ramp(start: int, stop: int, samples: int) -> BatchSize:
    """Grows (or shrinks) in a straight line from `start` to `stop` over `samples` rows: curriculum batch scheduling.

    Raises:
        SettingsError: a size or the number of samples is below 1.

    Source: the line is ours; that a batch may grow where a rate would fall is Smith et al. 2017, arXiv:1711.00489.
    """
    if min(start, stop, samples) < 1:
        raise SettingsError(f"a ramp needs sizes and samples of at least 1, got {start}, {stop}, {samples}; raise it")
    return BatchSize(functools.partial(_ramp, start, stop, samples), largest=max(start, stop))


def ada_batch(start: int, *, every_samples: int, factor: float = 2.0) -> BatchSize:
    """`start * factor^k` after k times `every_samples` rows; grows without end until clipped.

    The paper multiplies the learning rate's decay by the same factor: pair it with `linear_scaled` and a decay.

    Raises:
        SettingsError: the start or the distance is below 1, or the factor not above 1.

    Source: AdaBatch: Devarakonda et al. 2017, arXiv:1712.02029 (doubling every 20 epochs).
    """
    checked_start(start)
    if every_samples < 1 or not factor > 1:
        raise SettingsError(
            f"growth needs at least 1 sample between steps and a factor above 1, got {every_samples} and {factor}; "
            "the paper doubles every 20 epochs"
        )
    return BatchSize(functools.partial(_ada_batch, start, every_samples, factor))


def instead_of_decay(schedule: Schedule, base: int) -> BatchSize:
    """`base / schedule(samples)`: the batch grows where the learning rate would have decayed; keep the rate constant.

    The noise of the updates, lr * rows / size, follows the same path with fewer steps. Give the decay alone: warmup
    stays with the learning rate. A schedule that ends at 0 needs `.clip`.

    Raises:
        SettingsError: the base is below 1.

    Source: Smith et al. 2017, arXiv:1711.00489, whose noise scale is lr * (rows / size - 1); for sizes that are small
    against the table it is the product above.
    """
    return BatchSize(functools.partial(_instead_of_decay, schedule, checked_start(base)))


def _fixed(size: int, _progress: Progress, _stats: Stats) -> float:
    return size


def _milestones(plan: tuple[tuple[int, int], ...], progress: Progress, _stats: Stats) -> float:
    return next(size for since, size in plan if progress.samples >= since)


def _ramp(start: int, stop: int, samples: int, progress: Progress, _stats: Stats) -> float:
    return start + (stop - start) * min(progress.samples / samples, 1.0)


def _ada_batch(start: int, every_samples: int, factor: float, progress: Progress, _stats: Stats) -> float:
    try:
        return start * float(factor) ** (progress.samples // every_samples)
    except OverflowError:  # more than any bound
        return math.inf


def _instead_of_decay(schedule: Schedule, base: int, progress: Progress, _stats: Stats) -> float:
    factor = schedule(progress.samples)
    return base / factor if factor > 0 else math.inf
