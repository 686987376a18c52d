"""The model from which all clients are least far in sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import gram, take_whole, weighted_sum
from fedmb.aggregation.rule import total_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

_SMALLEST = 1e-6  # of the median distance, below which a client counts as no nearer: nu of the paper, without a unit
_STEPS = (
    64  # the paper stops after 3 to 5; a step costs nothing here, since models are read twice whatever their number
)
_STILL = 1e-9  # largest change of a share that ends it


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """Weighted geometric median, by smoothed Weiszfeld steps: a mean in which far clients count little.

    Withstands bad clients that together weigh less than the others. Every step stays among means of the clients'
    models, so steps are taken on their inner products and models are read twice, not once a step. Integers come from
    the client that counts most in the end.

    Source: RFA, Pillutla et al. 2022, arXiv:1912.13445, algorithm 2.
    """

    def least(self, refused: int = 0) -> int:
        """One."""
        return 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The mean whose coefficients the steps arrive at."""
        shares = median_shares(gram(stack), stack.weights / total_weight(stack))
        model = weighted_sum(stack, shares, float(shares.sum()))
        return take_whole(stack, model, stack.clients[int(np.argmax(shares))])


def median_shares(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each client counts in the geometric median, `(clients,)`, of sum 1.

    Args:
        products: inner products of the models from any one point, `(clients, clients)`.
        weights: what each client weighs, of sum 1.
    """
    shares = weights.copy()
    for _ in range(_STEPS):
        along = products @ shares
        distances = np.sqrt(np.maximum(np.diag(products) - 2 * along + shares @ along, 0.0))
        nearest = _SMALLEST * float(np.median(distances[weights > 0]))
        if nearest == 0:  # most of them lie where the mean lies
            nearest = _SMALLEST * float(distances.max())
        if nearest == 0:
            return shares
        steps = weights / np.maximum(distances, nearest)
        moved = steps / steps.sum()
        still = float(np.abs(moved - shares).max()) < _STILL
        shares = moved
        if still:
            break
    return shares
