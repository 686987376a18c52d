"""The prequential score: every row is a test before it is a lesson.

Kept as sums over units, so scores of several clients add up and are divided once (invariant I5). Two views:

- windowed: the last rows, in blocks, all alike;
- fading: all rows, each `fading` times the weight of the next one.

Rows of one batch are equally old. Masked rows do not count.

Source: Dawid 1984, Statistical theory: the prequential approach, JRSS A 147; windows and fading factors, Gama et al.
2013, On evaluating stream learning algorithms, Machine Learning 90, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOWED, FADING = "prequential_", "fading_"
"""What the names of sums begin with."""
_BLOCKS = 32  # in a window: its state stays this small whatever the batch, and its length is right to 3 %


@dataclass(slots=True)
class _Block:
    """Batches that leave the window together."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)


class Prequential:
    """Sums of losses and metrics over the newest rows, and over all rows with fading weights.

    Args:
        window: rows of the windowed sums; once there are as many, the window holds them and at most a batch and
            `window / 32` more.
        fading: what one row leaves of the weight of earlier rows; 1 forgets nothing.

    Raises:
        SettingsError: the window is below 1 or the factor not above 0 and at most 1.
    """

    def __init__(self, *, window: int = 2048, fading: float = 0.999) -> None:
        if window < 1 or not 0 < fading <= 1:
            raise SettingsError(
                f"a prequential score needs a window of at least 1 row and a fading factor above 0 and at most 1, got "
                f"{window} and {fading}; take 2048 and 0.999"
            )
        self._window = window
        self._fading = fading
        self._blocks: list[_Block] = []  # oldest first
        self._faded: dict[str, float] = {}
        self.rows = 0
        """Rows in the window."""
        self.set_aside = 0
        """Batches with a figure that is not finite; they are in no sum."""

    def observe(self, rows: int, sums: Mapping[str, float]) -> bool:
        """Count a batch's rows; False where it was set aside because a figure is not finite.

        Args:
            rows: how many rows were tested, at least 1.
            sums: "units", "loss" and metrics, each summed over units.
        """
        if not all(map(math.isfinite, sums.values())):
            self.set_aside += 1
            return False
        kept = self._fading**rows
        for name in self._faded:
            self._faded[name] *= kept
        _add(self._faded, sums)
        if not self._blocks or self._blocks[-1].rows * _BLOCKS >= self._window:
            self._blocks.append(_Block())
        newest = self._blocks[-1]
        newest.rows += rows
        _add(newest.sums, sums)
        self.rows += rows
        while self.rows - self._blocks[0].rows >= self._window:
            self.rows -= self._blocks.pop(0).rows
        return True

    def windowed(self) -> dict[str, float]:
        """Sums over the newest rows; nothing before the first. Added up anew, so no rounding is carried along."""
        total: dict[str, float] = {}
        for block in self._blocks:
            _add(total, block.sums)
        return total

    def faded(self) -> dict[str, float]:
        """Sums over all rows, with fading weights."""
        return dict(self._faded)

    def sums(self) -> dict[str, float]:
        """Both views as a client sends them: `prequential_units`, `prequential_loss`, … and `fading_units`, …."""
        windowed = {WINDOWED + name: value for name, value in self.windowed().items()}
        return windowed | {FADING + name: value for name, value in self._faded.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything observed, as JSON values; window and factor are settings and stay outside."""
        blocks = [[block.rows, dict(block.sums)] for block in self._blocks]
        return {"blocks": blocks, "faded": dict(self._faded), "set_aside": self.set_aside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave."""
        self._blocks = [_Block(rows, dict(sums)) for rows, sums in state["blocks"]]
        self.rows = sum(block.rows for block in self._blocks)
        self._faded = dict(state["faded"])
        self.set_aside = state["set_aside"]


def prequential_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Means by name from the sums of one client, or of several added up: `prequential_loss`, `fading_loss`, …."""
    means: dict[str, float] = {}
    for view in (WINDOWED, FADING):
        if units := sums.get(f"{view}units"):
            names = [name for name in sums if name.startswith(view) and name != f"{view}units"]
            means |= {name: sums[name] / units for name in names}
    return means


def _add(total: dict[str, float], sums: Mapping[str, float]) -> None:
    for name, value in sums.items():
        total[name] = total.get(name, 0.0) + value
