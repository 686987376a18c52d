"""A strategy's privacy: who is asked, the mean that is noised, what it told so far, and what of a round may be told.

With `rounds.fraction_train` below 1 every connected client is asked with that probability of its own, and nobody
outside knows who: that is what makes a round tell less. Otherwise everyone is asked.

What clients measure on their rows, losses and scores among it, is no noised mean and in no epsilon: reports leave it
out. The model's scores on the server's own rows follow from the model and stay.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedmb.aggregation.privacy_account import SPENT, PrivacyAccount
from fedmb.aggregation.randomness import Seeded, Unpredictable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fedmb.aggregation.privacy import Privacy
    from fedmb.telemetry.events import RoundReport
    from fedmb.update import Arrays

log = logging.getLogger(__name__)

_OF_THE_MODEL = {"update_ratio"}  # figures that follow from the models alone
_ACCOUNT, _MEAN = "account", "mean"


def is_over(reason: str | None, privacy: Privacy, rate: float, memory: Arrays) -> bool:
    """Whether a run that ended for `reason` stays ended: one that ended for its budget goes on with a larger one.

    Args:
        reason: in its checkpoint; nothing where it goes on.
        privacy: its settings, as they are now.
        rate: probability with which each connected client is asked.
        memory: what its strategy remembers, as `memory_of` has it.
    """
    if not (reason and privacy.is_on and reason.startswith(SPENT)):
        return bool(reason)
    account = PrivacyAccount(
        noise_multiplier=privacy.noise_multiplier, rate=rate, delta=privacy.delta, budget=privacy.epsilon
    )
    account.load_state_dict({name.rpartition("/")[2]: one for name, one in memory.items() if f"/{_ACCOUNT}/" in name})
    return bool(account.exhausted())


class Private:
    """What a private run has beside its strategy.

    Args:
        privacy: the settings.
        rate: probability with which each connected client is asked, in (0, 1].
        seed: of the run; read where randomness is seeded.
        parameters: names of the arrays that are trained; every floating one if left out.

    Raises:
        SettingsError: dp-accounting is not installed.
    """

    def __init__(
        self, privacy: Privacy, *, rate: float = 1.0, seed: int = 0, parameters: Collection[str] | None = None
    ) -> None:
        self.rate = rate
        self._source = Seeded(seed) if privacy.randomness == "seeded" else Unpredictable()
        if privacy.randomness == "seeded":
            log.warning("noise follows from the seed and protects nobody who knows it randomness=seeded")
        self.mean = privacy.mean(self._source.normals, parameters)
        self.account = PrivacyAccount(
            noise_multiplier=privacy.noise_multiplier, rate=rate, delta=privacy.delta, budget=privacy.epsilon
        )
        self.account.epsilon(1)  # which says now, and not after a round, that the library is missing

    def picked(self, number: int, count: int) -> Sequence[int]:
        """Who of `count` is asked in round `number`."""
        self._source.begin(number)
        return range(count) if self.rate == 1 else np.flatnonzero(self._source.uniforms(count) < self.rate).tolist()

    def published(self, report: RoundReport) -> RoundReport:
        """The report without what clients measured, with epsilon, delta and the clipping norm."""
        own = {name: value for name, value in report.monitor.items() if name in _OF_THE_MODEL}
        spent = {"epsilon": self.account.epsilon(), "delta": self.account.delta, "clip_norm": self.mean.clip_norm}
        return replace(report, train_loss=math.nan, rows={}, alarms={}, monitor=own | spent)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Releases, and a clipping norm that adapts."""
        parts = {_ACCOUNT: self.account.state_dict(), _MEAN: self.mean.state_dict()}
        return {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning."""
        for part, one in ((_ACCOUNT, self.account), (_MEAN, self.mean)):
            one.load_state_dict({k.removeprefix(f"{part}/"): a for k, a in state.items() if k.startswith(f"{part}/")})
