"""Rules that look at one element at a time: trimmed mean and median.

Each client counts once, whatever weight it tells, since a weight is a client's own word. Integers and booleans are the
lower median of what clients sent: some client's value, and not a bad one's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import by_element
from fedmb.aggregation.rule import demand, left_over
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Mean of each element without its `bad_clients` largest and its `bad_clients` smallest values.

    Args:
        bad_clients: how many it withstands, at least 1.

    Raises:
        SettingsError: `bad_clients` is below 1.

    Source: Yin et al. 2018, arXiv:1803.01498, definition 2; beta there is bad_clients over the number of clients.
    """

    bad_clients: int

    def __post_init__(self) -> None:
        check_bad_clients(self.bad_clients)

    def least(self, refused: int = 0) -> int:
        """More than are cut off."""
        return 2 * left_over(self.bad_clients, refused) + 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The trimmed mean, summed in float64."""
        demand(self, stack, refused)
        cut = left_over(self.bad_clients, refused)
        left = len(stack) - 2 * cut

        def middle(ordered: NDArray[Any]) -> NDArray[Any]:
            total: NDArray[Any] = ordered[cut : cut + left].sum(axis=0, dtype=np.float64)
            return total / left

        return by_element(stack, middle, _lower_median)


@dataclass(frozen=True, slots=True)
class Median:
    """Median of each element; of an even number of clients, the mean of the two in the middle.

    Withstands any minority of bad clients, and needs to be told no number. Where clients' data differ much it stays
    behind the mean even when all are honest (docs/guide/robust.md).

    Source: Yin et al. 2018, arXiv:1803.01498, definition 1.
    """

    def least(self, refused: int = 0) -> int:
        """One."""
        return 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The median."""
        demand(self, stack, refused)
        return by_element(stack, _median, _lower_median)


def check_bad_clients(count: int) -> None:
    """Refuse a number of bad clients that leaves a rule nothing to do.

    Raises:
        SettingsError: it is below 1.
    """
    if count < 1:
        raise SettingsError(
            f"a rule must withstand at least 1 bad client, got {count}; set bad_clients or take the mean",
            key="aggregation.bad_clients",
        )


def _median(ordered: NDArray[Any]) -> NDArray[Any]:
    count = len(ordered)
    middle: NDArray[Any] = ordered[(count - 1) // 2].astype(np.float64)
    middle += ordered[count // 2]
    middle /= 2
    return middle


def _lower_median(ordered: NDArray[Any]) -> NDArray[Any]:
    chosen: NDArray[Any] = ordered[(len(ordered) - 1) // 2]
    return chosen
