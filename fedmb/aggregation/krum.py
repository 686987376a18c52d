"""Rules that choose clients by how near they lie to others: Krum and Multi-Krum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.blockwise import gram, squared_distances, take_whole, weighted_sum
from fedmb.aggregation.by_element import check_bad_clients
from fedmb.aggregation.rule import demand, heaviest, left_over
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MultiKrum:
    """Mean of the clients that lie nearest to their neighbours, each counted once.

    A client's score is the sum of its squared distances to its n - f - 2 nearest others, f being the bad clients that
    may be among the n; the `chosen` of lowest score are averaged, the first by name on a tie.

    Args:
        bad_clients: f, at least 1.
        chosen: how many are averaged; n - f when left out. One is Krum.

    Raises:
        SettingsError: a number is below 1.

    Source: Blanchard et al. 2017, arXiv:1703.02757, sections 4 (Krum, 2f + 2 < n) and 6 (Multi-Krum).
    """

    bad_clients: int
    chosen: int | None = None

    def __post_init__(self) -> None:
        check_bad_clients(self.bad_clients)
        if self.chosen is not None and self.chosen < 1:
            raise SettingsError(
                f"Multi-Krum must choose at least 1 client, got {self.chosen}; leave it out for all but the bad ones",
                key="aggregation.chosen",
            )

    def least(self, refused: int = 0) -> int:
        """2f + 3, and as many as are to be chosen."""
        return max(2 * left_over(self.bad_clients, refused) + 3, self.chosen or 0)

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """Mean of the chosen; their integers come from the heaviest of them."""
        demand(self, stack, refused)
        bad = left_over(self.bad_clients, refused)
        best = nearest(squared_distances(gram(stack, before)), bad)[: self.chosen or len(stack) - bad]
        coefficients = np.zeros(len(stack))
        coefficients[best] = 1.0
        return take_whole(stack, weighted_sum(stack, coefficients, float(len(best))), heaviest(stack, best))


def krum(bad_clients: int) -> MultiKrum:
    """The one client that lies nearest to its neighbours."""
    return MultiKrum(bad_clients, chosen=1)


def nearest(distances: NDArray[np.float64], bad: int) -> NDArray[np.int64]:
    """Clients by rising score, given squared distances, `(clients, clients)`, and how many may be bad."""
    count = len(distances)
    neighbours = max(1, count - bad - 2)
    others = distances[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    scores = np.sort(others, axis=1)[:, :neighbours].sum(axis=1)
    return np.argsort(scores, kind="stable").astype(np.int64)
