"""ADWIN: a window of the loss that grows while nothing changes and is cut where its halves differ.

The window is kept as buckets of 1, 2, 4, … observations, a few of each size, so a window of a million observations
takes some hundred numbers. Every `clock` observations each border between buckets is tried: where the means on both
sides differ by more than chance allows, the oldest bucket goes, and the window is tried again.

    epsilon = sqrt(2 / m * variance * ln(2 ln(width) / delta)) + 2 / (3 m) * ln(2 ln(width) / delta)
    1 / m   = 1 / (n0 - shortest + 1) + 1 / (n1 - shortest + 1)

Source: Bifet and Gavaldà 2007, Learning from time-changing data with adaptive windowing, SDM, section 3 and equation
3.1; `shortest` in 1 / m, and the clock, as in River 0.26, against which this is tested observation by observation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BUCKETS = 5  # of each size before the two oldest become one of twice the size: M in the paper
_SHORTEST = 5  # observations that each side of a border must hold
_GRACE = 10  # observations before any border is tried


class Adwin:
    """Rings when the mean of the newest observations has risen above that of the older ones.

    One observation is one element of the window, whatever its rows: a batch's mean has the variance of a batch's mean,
    which the window measures. A fall of the loss is learning; it cuts the window and rings nothing. After an alarm the
    window begins anew, as River's does: what is left of it still holds the change, and would ring again.

    Args:
        delta: chance that a cut is a false one.
        clock: observations between two trials.

    Raises:
        SettingsError: delta is not between 0 and 1, or the clock below 1.
    """

    def __init__(self, *, delta: float = 0.002, clock: int = 32) -> None:
        if not 0 < delta < 1 or clock < 1:
            raise SettingsError(
                f"adwin needs a delta between 0 and 1 and a clock of at least 1, got {delta} and {clock}; take 0.002 "
                "and 32"
            )
        self._delta = delta
        self._clock = clock
        self._buckets: list[list[tuple[float, float]]] = []  # by exponent of the size; (total, squared deviations)
        self._ticks = self._width = 0
        self._total = self._deviations = 0.0

    @property
    def width(self) -> int:
        """Observations in the window."""
        return self._width

    @property
    def mean(self) -> float | None:
        """Mean of the window; None while it is empty."""
        return self._total / self._width if self._width else None

    @property
    def variance(self) -> float:
        """Variance of the window, 0 while it is empty."""
        # Dropping buckets subtracts, so that equal observations may leave a hair less than nothing.
        return max(0.0, self._deviations) / self._width if self._width else 0.0

    def observe(self, mean: float, rows: int) -> bool:
        """Count the mean loss of a batch; True when it has risen, once for each change.

        Args:
            mean: mean loss of the batch, finite.
            rows: its rows, which ADWIN does not weigh.
        """
        if max(self.changes(mean), default=0.0) <= 0:
            return False
        self._buckets.clear()
        self._ticks = self._width = 0
        self._total = self._deviations = 0.0
        return True

    def changes(self, value: float) -> list[float]:
        """Count `value`; by how much the means differed on both sides of each cut, newer less older."""
        self._insert(value)
        self._ticks += 1
        found: list[float] = []
        if self._ticks % self._clock == 0 and self._width > _GRACE:
            while (change := self._change()) is not None:
                self._drop_oldest()
                found.append(change)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The window, as JSON values."""
        return {
            "buckets": [[list(bucket) for bucket in row] for row in self._buckets],
            "ticks": self._ticks,
            "width": self._width,
            "total": self._total,
            "deviations": self._deviations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave."""
        self._buckets = [[(total, deviations) for total, deviations in row] for row in state["buckets"]]
        self._ticks, self._width = state["ticks"], state["width"]
        self._total, self._deviations = state["total"], state["deviations"]

    def _insert(self, value: float) -> None:
        if not self._buckets:
            self._buckets.append([])
        self._buckets[0].append((value, 0.0))
        self._width += 1
        if self._width > 1:
            distance = value - self._total / (self._width - 1)
            self._deviations += (self._width - 1) * distance * distance / self._width
        self._total += value
        for exponent, row in enumerate(self._buckets):
            if len(row) <= _BUCKETS:
                break
            if exponent + 1 == len(self._buckets):
                self._buckets.append([])
            size = 2**exponent
            (one, its), (other, others) = row[:2]
            self._buckets[exponent + 1].append((one + other, its + others + _between(one, size, other, size)))
            del row[:2]

    def _drop_oldest(self) -> None:
        exponent = len(self._buckets) - 1
        size = 2**exponent
        total, deviations = self._buckets[exponent].pop(0)
        self._width -= size
        self._total -= total
        self._deviations -= deviations + _between(total, size, self._total, self._width)
        if not self._buckets[exponent]:
            del self._buckets[exponent]

    def _oldest_first(self) -> Iterator[tuple[int, float]]:
        """Observations and total of each bucket."""
        for exponent in reversed(range(len(self._buckets))):
            for total, _ in self._buckets[exponent]:
                yield 2**exponent, total

    def _change(self) -> float | None:
        """How far the means are apart at the first border where chance does not allow it: newer less older."""
        older, older_total = 0, 0.0
        for size, total in self._oldest_first():
            older, older_total = older + size, older_total + total
            newer = self._width - older
            if older >= _SHORTEST and newer >= _SHORTEST:
                difference = (self._total - older_total) / newer - older_total / older
                if abs(difference) > self._epsilon(older, newer):
                    return difference
        return None

    def _epsilon(self, older: int, newer: int) -> float:
        chance = math.log(2 * math.log(self._width) / self._delta)
        inverse = 1 / (older - _SHORTEST + 1) + 1 / (newer - _SHORTEST + 1)
        return math.sqrt(2 * inverse * self.variance * chance) + 2 / 3 * chance * inverse


def _between(one: float, its: int, other: float, others: int) -> float:
    """What the distance of two parts' means adds to the squared deviations of both together."""
    distance = one / its - other / others
    return its * others * distance * distance / (its + others)
