"""The line cost = fixed + slope * rows through what steps have cost, forgetting old steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Relative spread of the sizes, squared, below which their rounding errors would drive the slope.
NARROWEST_SPREAD = 1e-9


class Line(NamedTuple):
    """cost = fixed + slope * rows; neither part is negative."""

    fixed: float
    slope: float


class AffineFit:
    """Least squares of a step's cost over its rows, weighted by 1/2 for each half-life in steps.

    The line is absent until two different sizes were seen. While the size then stays the same, the slope is kept
    and the level goes on following, so a settled batch size does not make its own reason disappear.

    Args:
        half_life: steps after which an observation counts half.

    Raises:
        SettingsError: the half-life is not a positive number.
    """

    def __init__(self, half_life: float) -> None:
        if not 0 < half_life < math.inf:
            raise SettingsError(f"a half-life must be positive and finite, got {half_life}; take a few hundred steps")
        self._kept = 0.5 ** (1 / half_life)
        self._weight = 0.0
        self._rows = 0.0  # weighted means, and sums of squares around them: stable where raw sums would cancel
        self._cost = 0.0
        self._spread = 0.0
        self._together = 0.0

    @property
    def line(self) -> Line | None:
        """The best line without a negative part; None until two different sizes were seen."""
        if self._spread <= 0:
            return None
        slope = self._together / self._spread
        if slope <= 0:
            return Line(self._cost, 0.0)
        fixed = self._cost - slope * self._rows
        if fixed >= 0:
            return Line(fixed, slope)
        weighted_square = self._spread + self._weight * self._rows**2
        return Line(0.0, (self._together + self._weight * self._rows * self._cost) / weighted_square)

    @property
    def lacks_a_size(self) -> bool:
        """Whether something was observed, and of one size only, so that a second one would make a line of it."""
        return self._weight > 0 and self._spread <= 0

    def observe(self, rows: float, cost: float) -> None:
        """Count a step of `rows` that cost `cost`."""
        weight = self._kept * self._weight
        self._weight = weight + 1
        more_rows, more_cost = rows - self._rows, cost - self._cost
        self._rows += more_rows / self._weight
        self._cost += more_cost / self._weight
        share = weight / self._weight
        spread = self._kept * self._spread + share * more_rows**2
        if spread > NARROWEST_SPREAD * self._weight * self._rows**2:
            self._together = self._kept * self._together + share * more_rows * more_cost
            self._spread = spread

    def state_dict(self) -> dict[str, float]:
        """What was observed, as JSON values; the half-life is a setting and stays outside."""
        return {
            "weight": self._weight,
            "rows": self._rows,
            "cost": self._cost,
            "spread": self._spread,
            "together": self._together,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        self._weight = float(state["weight"])
        self._rows = float(state["rows"])
        self._cost = float(state["cost"])
        self._spread = float(state["spread"])
        self._together = float(state["together"])
