"""How much the released models of a run have told so far: epsilon at a delta, by Renyi differential privacy.

Every round that closes is a release of the Gaussian mechanism. Where every connected client is asked, it counts in
full. Where each is asked with a probability of its own (Poisson sampling), it counts for less, by as much as an
outsider cannot know who was asked.

The sums are those of Google's dp-accounting, which the extra `fedmb[privacy]` installs; it is imported when a figure is
first wanted. Source: Mironov 2017, arXiv:1702.07476; Mironov et al. 2019, arXiv:1908.10530.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

SPENT = "privacy budget: "
"""Begins the reason by which a run ends for its budget."""
_RELEASES = "releases"  # rows of noise multiplier, sampling rate and number


class PrivacyAccount:
    """Counts releases.

    Args:
        noise_multiplier: of the next releases.
        rate: probability with which each client takes part in them, in (0, 1].
        delta: chance that epsilon does not hold.
        budget: epsilon that no release may pass; inf for none.
    """

    def __init__(self, *, noise_multiplier: float, rate: float, delta: float, budget: float = math.inf) -> None:
        self.next = (float(noise_multiplier), float(rate))
        self.delta = delta
        self.budget = budget
        self._releases: dict[tuple[float, float], int] = {}

    @property
    def releases(self) -> int:
        """How many there were."""
        return sum(self._releases.values())

    def epsilon(self, more: int = 0) -> float:
        """What was told so far, and by so many more releases; 0 for none.

        Raises:
            SettingsError: dp-accounting is not installed.
        """
        counts = self._releases | {self.next: self._releases.get(self.next, 0) + more}
        return epsilon_of(tuple(sorted((*one, count) for one, count in counts.items() if count)), self.delta)

    def count(self) -> None:
        """Count a release that was made."""
        self._releases[self.next] = self._releases.get(self.next, 0) + 1

    def exhausted(self) -> str:
        """Why there may be no further release; empty while there may."""
        if math.isinf(self.budget) or (then := self.epsilon(1)) <= self.budget:
            return ""
        return (
            f"{SPENT}a round more would make epsilon {then:.4g}, over the {self.budget:g} of "
            f"aggregation.privacy.epsilon; it is {self.epsilon():.4g} at delta {self.delta:g} after {self.releases} "
            "rounds"
        )

    def state_dict(self) -> Model:
        """Every kind of release with its number."""
        if not self._releases:
            return {}
        return {_RELEASES: np.array([(*one, count) for one, count in sorted(self._releases.items())], np.float64)}

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning."""
        rows = np.asarray(state[_RELEASES]) if _RELEASES in state else np.zeros((0, 3))
        self._releases = {(float(noise), float(rate)): int(count) for noise, rate, count in rows}


@lru_cache(maxsize=8)
def epsilon_of(releases: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Epsilon of Gaussian releases, each `(noise multiplier, sampling rate, number)`.

    Neighbours differ in what the noise hides, a client or a row: it is there, or nothing in its place.

    Raises:
        SettingsError: dp-accounting is not installed.
    """
    if not releases:
        return 0.0
    try:
        import dp_accounting
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise SettingsError(
            f"counting epsilon takes dp-accounting, got: {error}; pip install 'fedmb[privacy]'",
            key="privacy",
        ) from error
    said, level = logging.getLogger("absl"), logging.getLogger("absl").level
    said.setLevel(logging.ERROR)  # of orders that it leaves out, which only makes epsilon larger
    try:
        accountant = RdpAccountant()
        for noise, rate, count in releases:
            event = dp_accounting.GaussianDpEvent(noise)
            accountant.compose(event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event), count)
        return float(accountant.get_epsilon(delta))
    finally:
        said.setLevel(level)
