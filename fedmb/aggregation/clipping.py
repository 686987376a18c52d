"""The mean of changes that are no longer than a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import changes, take_whole, weighted_sum
from fedmb.aggregation.rule import heaviest, total_weight
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ClippedMean:
    """Weighted mean in which no client's change is longer than a bound; longer ones are shortened to it.

    Args:
        norm: longest change, over all floating arrays; left out, it is taken from each round.
        medians: without `norm`: times the median length of the round's changes.

    Raises:
        SettingsError: a number is not above 0.

    Source: norm bounding, Sun et al. 2019, arXiv:1911.07963, section 4. The median of the round as the bound is ours:
        it follows the lengths as they fall, and no minority moves it.
    """

    norm: float | None = None
    medians: float = 1.0

    def __post_init__(self) -> None:
        for key, value in (("norm", self.norm), ("medians", self.medians)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingsError(
                    f"the longest change must be above 0 and finite, got {key} = {value}; 1.5 medians is mild",
                    key=f"aggregation.clip_{key}",
                )

    def least(self, refused: int = 0) -> int:
        """One."""
        return 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The model before, moved by the mean of the shortened changes; integers come from the heaviest client."""
        weights, total = stack.weights, total_weight(stack)
        lengths = np.sqrt(changes(stack, before)[0])
        bound = self.norm if self.norm is not None else self.medians * float(np.median(lengths))
        kept = np.minimum(1.0, bound / np.maximum(lengths, np.finfo(float).tiny))
        shortened = float(sum((weights * (1 - kept)).tolist()))
        model = weighted_sum(stack, weights * kept, total, beside=(before, shortened) if shortened else None)
        return take_whole(stack, model, heaviest(stack))
