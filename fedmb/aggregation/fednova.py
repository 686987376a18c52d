"""The mean of the clients' directions, each divided by how far its steps went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import take_whole, weighted_sum
from fedmb.aggregation.rule import heaviest, total_weight
from fedmb.aggregation.server_optimizer import stepped
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class FedNova:
    """Mean of what clients changed per unit of reach, times the mean reach.

    Clients that take more steps than others, or larger ones, pull the mean towards their own optimum; divided by how
    far their steps went, each counts by its weight alone. Where all reach equally far it is the mean.

    Takes every update at its word, as the mean does. Floating arrays that are no parameters are averaged as by the
    mean: a variance that is moved beyond the clients' may fall below 0.

    Args:
        parameters: names of the arrays that were stepped; every floating one if left out.

    Source: Wang et al. 2020, arXiv:2007.07481, section 4, equation 13; a reach here is a learning rate times |a|_1.
    """

    parameters: frozenset[str] | None = None

    def least(self, refused: int = 0) -> int:
        """One."""
        return 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The model before, moved by the mean of the directions; integers come from the heaviest client.

        Raises:
            ShapeError: a client's reach is missing or no positive number.
        """
        weights, total, reaches = stack.weights, total_weight(stack), stack.reaches
        for client, reach, weight in zip(stack.clients, reaches.tolist(), weights.tolist(), strict=True):
            if weight:
                check_reach(reach, client)
        shares = weights / total
        said = np.where(weights > 0, reaches, 1.0)  # who weighs nothing need not say how far it went
        coefficients = shares * float(sum((shares * said).tolist())) / said
        rest = 1.0 - float(sum(coefficients.tolist()))
        model = weighted_sum(stack, coefficients, 1.0, beside=(before, rest) if rest else None)
        steps = set(stepped(model, self.parameters))
        if steps != set(stepped(model, None)):
            mean = weighted_sum(stack, weights, total)
            model = {name: model[name] if name in steps else mean[name] for name in model}
        return take_whole(stack, model, heaviest(stack))


def check_reach(reach: float, client: str) -> None:
    """Refuse a reach that nothing can be divided by.

    Raises:
        ShapeError: it is missing, not finite or not above 0.
    """
    if not (np.isfinite(reach) and reach > 0):
        raise ShapeError(
            f"a client must say how far its steps went, a number above 0, got {reach} from {client!r}; reject its "
            "update"
        )
