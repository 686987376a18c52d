"""How many rows the next step asks for: a rule, and what may be wrapped around it.

A policy keeps no memory: what it needs to know of the past is in `Progress`, which the trainer keeps and saves. So
stopping and resuming cannot change a decision, and one policy may serve many clients.

    goodput(start=32).damped().clip(16, 1024).multiple(8).every(10_000)

reads from left to right; each call wraps what stands before it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from fedmb.sizing.stats import Stats

Figure: TypeAlias = Literal["noise", "seconds", "joules", "loss", "learning_rate"]
"""What a policy may read beside the number of samples; a trainer measures only what is read."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands when it asks for the next size."""

    samples: int = 0
    """Rows learnt so far."""
    steps: int = 0
    """Steps taken so far."""
    epoch: float = 0.0
    """Passes over the source so far; 0 on a stream."""
    learning_rate: float | None = None
    """Learning rate in force; None where the policy does not read it."""
    size: int | None = None
    """Size in force: the policy's last answer, not the rows that came; None before the first."""
    asked_at: int | None = None
    """Rows learnt when the policy was last asked; None before the first time."""


Rule: TypeAlias = Callable[[Progress, "Stats"], float]
Worth: TypeAlias = Callable[[float, float, "Stats"], float]
"""(size in force, proposed size, stats) -> relative gain of the change."""


def relative_change(held: float, proposed: float, _stats: Stats) -> float:
    """How far two sizes are apart: 0.1 for 100 and 110."""
    return max(held, proposed) / min(held, proposed) - 1


@dataclass(frozen=True, slots=True)
class BatchSize:
    """A policy: `(progress, stats) -> rows`. Constructors are in `planned`, `adaptive`, `goodput` and `energy`."""

    rule: Rule
    """Gives a size as a float, before rounding; `math.inf` asks for as much as bounds allow."""
    largest: float = math.inf
    """The most it can answer; a trainer refuses a policy without a finite one."""
    reads: frozenset[Figure] = frozenset()
    """Which figures the rule needs; before they are known it answers its start size."""
    worth: Worth = relative_change
    """What `damped` holds against its threshold."""
    bounds: tuple[Callable[[float], float], ...] = ()
    """What `clip` and `multiple` do to a size, in their order."""

    def __call__(self, progress: Progress, stats: Stats) -> int:
        """Rows to ask for, at least 1.

        Raises:
            ValueError: the rule's answer is not finite and nothing bounds it.
        """
        size = self.rule(progress, stats)
        if not math.isfinite(size):
            raise ValueError(f"a batch size must be finite, got {size}; bound the policy with .clip(lo, hi)")
        return max(1, round(size))

    def within(self, size: float) -> int:
        """`size` as the bounds around the rule allow it: what a trainer may ask for beside the rule's answer."""
        for bound in self.bounds:
            size = bound(size)
        return max(1, round(size))

    def clip(self, lo: int, hi: int) -> BatchSize:
        """At least `lo` and at most `hi` rows.

        Raises:
            SettingsError: not 1 <= lo <= hi.
        """
        if not 1 <= lo <= hi:
            raise SettingsError(f"bounds of a batch size must be 1 <= lo <= hi, got {lo} and {hi}; swap or raise them")
        return self._bounded(functools.partial(_clipped, lo, hi), largest=max(lo, min(hi, self.largest)))

    def multiple(self, group: int) -> BatchSize:
        """Rounded down to whole groups, at least one; for ghost batch norm and hardware that likes multiples of 8.

        Raises:
            SettingsError: the group is below 1.
        """
        if group < 1:
            raise SettingsError(f"a group must have at least 1 row, got {group}; leave .multiple out for no grouping")
        return self._bounded(functools.partial(_grouped, group), largest=max(self.largest, group))

    def damped(self, factor: float = 2.0, threshold: float = 0.05) -> BatchSize:
        """Changes by at most `factor` at a time, and only where the gain exceeds `threshold`.

        The gain is that of goodput for goodput policies, and the relative change of the size for all others.

        Raises:
            SettingsError: the factor is not above 1 or the threshold negative.

        Source: the threshold of 5 % is that of AdaptDL, the implementation of Pollux (Qiao et al. 2021,
        arXiv:2008.12260).
        """
        if not factor > 1 or not threshold >= 0:
            raise SettingsError(
                f"damping needs a factor above 1 and a threshold of at least 0, got {factor} and {threshold}; "
                "take 2 and 0.05"
            )
        return replace(self, rule=functools.partial(_damped, self.rule, self.worth, factor, threshold))

    def every(self, samples: int) -> BatchSize:
        """Decides anew only when the run passes a multiple of `samples` rows; put it last.

        Raises:
            SettingsError: samples are below 1.
        """
        if samples < 1:
            raise SettingsError(f"decisions must be at least 1 sample apart, got {samples}; leave .every out")
        return replace(self, rule=functools.partial(_at_boundaries, self.rule, samples))

    def _bounded(self, bound: Callable[[float], float], *, largest: float) -> BatchSize:
        rule = functools.partial(_bound, self.rule, bound)
        return replace(self, rule=rule, largest=largest, bounds=(*self.bounds, bound))


# Module-level functions bound by partial instead of closures: a policy can be pickled to a worker process.
def _bound(rule: Rule, bound: Callable[[float], float], progress: Progress, stats: Stats) -> float:
    return bound(rule(progress, stats))


def _clipped(lo: int, hi: int, size: float) -> float:
    return min(max(size, lo), hi)


def _grouped(group: int, size: float) -> float:
    # Rounded first: 639.9999 rows mean 640, which are whole groups of 64.
    return max(round(size) // group, 1) * group if math.isfinite(size) else size


def _damped(rule: Rule, worth: Worth, factor: float, threshold: float, progress: Progress, stats: Stats) -> float:
    wanted, held = rule(progress, stats), progress.size
    if held is None:
        return wanted
    reachable = min(max(wanted, held / factor), held * factor)
    return reachable if worth(held, reachable, stats) > threshold else held


def _at_boundaries(rule: Rule, samples: int, progress: Progress, stats: Stats) -> float:
    held, asked_at = progress.size, progress.asked_at
    if held is None or asked_at is None or progress.samples // samples != asked_at // samples:
        return rule(progress, stats)
    return held


def checked_start(start: int) -> int:
    """The size that a policy answers before it knows better.

    Raises:
        SettingsError: it is below 1.
    """
    if start < 1:
        raise SettingsError(f"a start size must be at least 1, got {start}; 32 is a usual one", key="size")
    return start
