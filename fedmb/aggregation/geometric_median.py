"""The model from which all clients are least far in sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import gram, squared_distances, take_whole, weighted_sum
from fedmb.aggregation.rule import total_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

_SMALLEST = 1e-6  # of the median distance, below which a client counts as no nearer: nu of the paper, without a unit
_STEPS = 1000  # at most; the paper takes 3 to 5, but a step costs nothing here, models are read twice in all
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
        shares = median_shares(gram(stack, before), stack.weights / total_weight(stack))
        model = weighted_sum(stack, shares, float(shares.sum()))
        return take_whole(stack, model, stack.clients[int(np.argmax(shares))])


def median_shares(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each client counts in the geometric median, `(clients,)`, of sum 1.

    Starts where clients count by their distance from half of all weight, not from the mean: a step takes only a part
    of the way back from where a far client has carried that.

    Args:
        products: inner products of the models from any one point, `(clients, clients)`.
        weights: what each client weighs, of sum 1.
    """
    is_endless = ~np.isfinite(np.diag(products))  # so far that the square of it is no number
    products = np.where(is_endless[:, None] | is_endless[None, :], 0.0, products)
    weights = np.where(is_endless, 0.0, weights)
    reach = _reach(np.sqrt(squared_distances(products)), weights)
    shares = _counted(weights, reach)
    for _ in range(_STEPS):
        along = products @ shares
        squares = np.diag(products) - 2 * along + shares @ along
        moved = _counted(weights, np.sqrt(np.maximum(squares, 0.0)))
        still = float(np.abs(moved - shares).max()) < _STILL
        shares = moved
        if still:
            break
    return shares


def _counted(weights: NDArray[np.float64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares by weight over distance."""
    known = distances[weights > 0]
    # Where most lie in one place the median is 0, and the farthest says what is small.
    nearest = _SMALLEST * float(np.median(known) or known.max())
    pull = weights / np.maximum(distances, nearest) if nearest else weights
    shares: NDArray[np.float64] = pull / pull.sum()
    return shares


def _reach(distances: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each client has to go to have half of all weight around it."""
    order = np.argsort(distances, axis=1, kind="stable")
    covered = np.cumsum(weights[order], axis=1)
    half = np.argmax(covered >= weights.sum() / 2, axis=1)
    found: NDArray[np.float64] = np.take_along_axis(distances, order, axis=1)[np.arange(len(order)), half]
    return found
