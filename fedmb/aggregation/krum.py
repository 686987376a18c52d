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

    Where rows differ from client to client, the f that are left out are honest ones with rare rows whenever nobody is
    bad, or the bad ones do not stand out. So with `odd_medians` fewer are left out, or nobody; and since bad ones may
    then be among those that stay, `mixing` draws each of these towards its nearest.

    Args:
        bad_clients: f, at least 1.
        chosen: how many are averaged; n - f when left out. One is Krum.
        odd_medians: of the f of highest score, leave out only who has more than this many times the median score, more
            than 1; all f when left out. An attack that stays within it is averaged.
        mixing: share, 0 to 1, that the mean of a client's nearest has in what is averaged for it, itself among them;
            they are as many as stay, less the bad ones that may be among these. 1 is nearest neighbour mixing.

    Raises:
        SettingsError: a number is outside its range, or two do not go together.

    Source: Blanchard et al. 2017, arXiv:1703.02757, sections 4 (Krum, 2f + 2 < n) and 6 (Multi-Krum); mixing: Allouah
    et al. 2023, arXiv:2302.01772, algorithm 1 (NNM).
    """

    bad_clients: int
    chosen: int | None = None
    odd_medians: float | None = None
    mixing: float = 0.0

    def __post_init__(self) -> None:
        check_bad_clients(self.bad_clients)
        if self.chosen is not None and self.chosen < 1:
            raise SettingsError(
                f"Multi-Krum must choose at least 1 client, got {self.chosen}; leave it out for all but the bad ones",
                key="aggregation.chosen",
            )
        if self.odd_medians is not None and not self.odd_medians > 1:
            raise SettingsError(
                f"a client is odd beyond more than 1 median score, got {self.odd_medians}; 3 is a start",
                key="aggregation.odd_medians",
            )
        if self.odd_medians is not None and self.chosen is not None:
            raise SettingsError(
                f"clients are chosen by number or by how odd they are, got chosen {self.chosen} and odd_medians "
                f"{self.odd_medians}; leave one out",
                key="aggregation.odd_medians",
            )
        if not 0 <= self.mixing <= 1:
            raise SettingsError(f"mixing is a share, 0 to 1, got {self.mixing}", key="aggregation.mixing")
        if self.mixing and self.odd_medians is None:
            raise SettingsError(
                f"mixing is for bad clients that may stay, which takes odd_medians, got mixing {self.mixing} without; "
                "set both or neither",
                key="aggregation.mixing",
            )

    def least(self, refused: int = 0) -> int:
        """2f + 3, and as many as are to be chosen."""
        return max(2 * left_over(self.bad_clients, refused) + 3, self.chosen or 0)

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """Mean of those that stay; their integers come from the heaviest of them."""
        demand(self, stack, refused)
        bad = left_over(self.bad_clients, refused)
        distances = squared_distances(gram(stack, before))
        stay = self._stay(scores(distances, bad), bad)
        coefficients = np.zeros(len(stack))
        coefficients[stay] = 1.0
        if self.mixing:
            close = len(stay) - max(0, bad - (len(stack) - len(stay)))
            coefficients[stay] = 1 - self.mixing + self.mixing * times_near(distances[np.ix_(stay, stay)], close)
        return take_whole(stack, weighted_sum(stack, coefficients, float(len(stay))), heaviest(stack, stay))

    def _stay(self, found: NDArray[np.float64], bad: int) -> NDArray[np.int64]:
        """Who is averaged, given scores, by client."""
        order = np.argsort(found, kind="stable")  # equals by name
        fewest = self.chosen or len(found) - bad
        if self.odd_medians is None:
            return np.sort(order[:fewest])
        doubtful = order[fewest:]
        tolerated = np.isfinite(found[doubtful]) & (found[doubtful] <= self.odd_medians * np.median(found))
        return np.sort(np.concatenate([order[:fewest], doubtful[tolerated]]))


def krum(bad_clients: int) -> MultiKrum:
    """The one client that lies nearest to its neighbours."""
    return MultiKrum(bad_clients, chosen=1)


def scores(distances: NDArray[np.float64], bad: int) -> NDArray[np.float64]:
    """Krum's score of each client, `(clients,)`, of squared distances, `(clients, clients)`, with so many bad ones."""
    count = len(distances)
    neighbours = max(1, count - bad - 2)
    others = distances[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    total: NDArray[np.float64] = np.sort(others, axis=1)[:, :neighbours].sum(axis=1)
    return total


def times_near(distances: NDArray[np.float64], close: int) -> NDArray[np.float64]:
    """How often a client is among the `close` nearest of one, itself included, over `close`: `(clients,)`, mean 1."""
    itself = np.where(np.eye(len(distances), dtype=bool), -1.0, distances)
    near = np.argsort(itself, axis=1, kind="stable")[:, :close]
    return np.bincount(near.ravel(), minlength=len(distances)) / close
