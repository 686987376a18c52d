"""An average that forgets by the amount of data seen, not by the number of calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


class MovingAverage:
    """Exponential moving average with a half-life, corrected for its empty start.

    Two observations of one value with amounts n and m weigh exactly what one with amount n + m does, so a changed
    batch size does not change how long the past is remembered. The first observation is the average.

    Args:
        half_life: amount after which an observation counts half; rows or steps, as the caller's amounts are.

    Raises:
        SettingsError: the half-life is not a positive number.
    """

    def __init__(self, half_life: float) -> None:
        if not 0 < half_life < math.inf:
            raise SettingsError(f"a half-life must be positive and finite, got {half_life}; take a few hundred steps")
        self._half_life = half_life
        self._sum = 0.0
        self._weight = 0.0

    @property
    def value(self) -> float | None:
        """The average; None before the first observation."""
        return self._sum / self._weight if self._weight > 0 else None

    def observe(self, value: float, amount: float) -> None:
        """Count `value` as seen over `amount` rows or steps."""
        exponent = -amount / self._half_life * math.log(2)
        kept, added = math.exp(exponent), -math.expm1(exponent)
        self._sum = kept * self._sum + added * value
        self._weight = kept * self._weight + added

    def state_dict(self) -> dict[str, float]:
        """What was observed, as JSON values; the half-life is a setting and stays outside."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        self._sum = float(state["sum"])
        self._weight = float(state["weight"])
