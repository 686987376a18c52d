"""Page-Hinkley: how far the loss has run above its own mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


class PageHinkley:
    """Rings when the loss, summed over rows, exceeds its mean so far by more than a threshold.

        excess = max(0, excess + rows * (loss - mean of all rows so far - delta))

    which is m - min(m) of the textbooks' cumulative sum m. Rows are counted, not batches, so another batch size leaves
    the threshold what it is. After an alarm it starts afresh: the loss after the change is the new mean.

    Args:
        threshold: excess that rings, in loss times rows.
        delta: rise of the loss that is let pass.
        min_rows: rows before anything rings, which the mean needs to settle.

    Raises:
        SettingsError: a number is negative or not finite, or the threshold is 0.

    Source: Page 1954, Continuous inspection schemes, Biometrika 41; Hinkley 1971, Biometrika 58; as a drift detector,
    Gama et al. 2013, On evaluating stream learning algorithms, Machine Learning 90, section 5.
    """

    def __init__(self, *, threshold: float = 50.0, delta: float = 0.05, min_rows: int = 512) -> None:
        if not (0 < threshold < math.inf and 0 <= delta < math.inf and min_rows >= 0):
            raise SettingsError(
                "page-hinkley needs a threshold above 0 and delta and min_rows of at least 0, got "
                f"{threshold}, {delta} and {min_rows}; take 50, 0.05 and 512"
            )
        self._threshold, self._delta, self._min_rows = threshold, delta, min_rows
        self._rows, self._sum, self._excess = 0, 0.0, 0.0

    def observe(self, mean: float, rows: int) -> bool:
        """Count the mean loss of `rows` rows; True when the change is found, once for each."""
        self._rows += rows
        self._sum += rows * mean
        self._excess = max(0.0, self._excess + rows * (mean - self._sum / self._rows - self._delta))
        if self._rows < self._min_rows or self._excess <= self._threshold:
            return False
        self._rows, self._sum, self._excess = 0, 0.0, 0.0
        return True

    def state_dict(self) -> dict[str, float]:
        """Rows, their loss and the excess, as JSON values."""
        return {"rows": self._rows, "sum": self._sum, "excess": self._excess}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on, to the bit, from what `state_dict` gave."""
        self._rows, self._sum, self._excess = int(state["rows"]), float(state["sum"]), float(state["excess"])
