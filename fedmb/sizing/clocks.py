"""Per-sample clocks: hyper-parameters as functions of the rows in the step at hand.

Every exponential memory has a half-life in samples. Kept at one value a step, a larger batch lengthens it; raised to
`rows / base`, it stays: two steps of half a batch forget what one step of the whole batch does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from fedmb.errors import SettingsError
from fedmb.sizing.learning_rate import Scaling, linear, sqrt, unscaled

if TYPE_CHECKING:
    from fedmb.sizing.policy import Figure
    from fedmb.sizing.stats import Stats

Clock: TypeAlias = Callable[[float], float]
"""Rows in a step -> value for this step."""


def momentum(beta: float, base: int) -> Clock:
    """`beta^(rows / base)`: what a memory keeps in one step. For momentum, Adam's betas and averages of weights.

    Raises:
        SettingsError: beta is not 0 to 1 or the base not positive.

    Source: Busbridge et al. 2023, arXiv:2307.13813, definition 1.2, stated there for averages of weights; for Adam's
    betas the same to first order as Malladi et al. 2022, arXiv:2205.10287, definition 5.3.
    """
    return functools.partial(_kept, _checked_share(beta), _checked_base(base))


def norm_momentum(share: float, base: int) -> Clock:
    """`1 - (1 - share)^(rows / base)`: torch's momentum of batch norm is the share of the new, not of the kept.

    Raises:
        SettingsError: the share is not 0 to 1 or the base not positive.

    Source: a corollary of `momentum`, whose memory is 1 - share: Busbridge et al. 2023, arXiv:2307.13813.
    """
    return functools.partial(_renewed, _checked_share(share), _checked_base(base))


def weight_decay(decay: float, rows: float, base: int, *, rate_factor: float = 1.0) -> float:
    """`decay * (rows / base) / rate_factor`: weights forget at the same pace an epoch, whatever batch and rate.

    AdamW and SGD shrink a weight by learning rate times decay in a step; the rate was multiplied by `rate_factor`.

    Raises:
        SettingsError: the base is not positive.

    Source: Wang and Aitchison 2024, arXiv:2405.13698: the timescale 1 / (rate * decay * steps an epoch) is constant.
    """
    return decay * (rows / _checked_base(base)) / rate_factor


@dataclass(frozen=True, slots=True)
class Follow:
    """Which hyper-parameters follow the rows of a step, each given by its value at the `base` size.

    A field that is None stays out of `values`, and the trainer leaves it alone.

    Raises:
        SettingsError: the base is not positive or a share is not 0 to 1.
    """

    base: int
    """Size at which everything below was tuned."""
    learning_rate: Scaling | None = None
    """One of `linear`, `sqrt`, `gain`, `adam_gain` of `fedmb.sizing.learning_rate`, or your own."""
    momentum: float | None = None
    """Momentum of SGD at the base size."""
    betas: tuple[float, float] | None = None
    """Adam's betas at the base size."""
    weight_decay: float | None = None
    """Weight decay at the base size."""
    norm_momentum: float | None = None
    """Momentum of batch norm, torch's sense, at the base size."""
    ema_decay: float | None = None
    """What an average of weights keeps in a step of the base size."""
    dropout: Callable[[int, Stats], float] | None = None
    """Your own rule; there is no evidence behind any, so none is supplied."""

    def __post_init__(self) -> None:
        _checked_base(self.base)
        for share in (self.momentum, self.norm_momentum, self.ema_decay, *(self.betas or ())):
            if share is not None:
                _checked_share(share)

    @property
    def reads(self) -> frozenset[Figure]:
        """Figures of `Stats` that scaling needs; a rule of your own is taken to need the noise."""
        return frozenset() if self.learning_rate in {None, linear, sqrt, unscaled} else frozenset({"noise"})

    def values(self, rows: int, stats: Stats) -> dict[str, float]:
        """Values for a step of `rows`, by name.

        `learning_rate_factor` multiplies base rate and schedule; `momentum`, `beta1`, `beta2`, `weight_decay`,
        `norm_momentum`, `ema_decay` and `dropout` are the values themselves.

        Raises:
            ValueError: the dropout rule answers something outside 0 to below 1.
        """
        found: dict[str, float] = {}
        factor = 1.0
        if self.learning_rate is not None:
            factor = found["learning_rate_factor"] = self.learning_rate(rows, self.base, stats.noise)
        kept = {"momentum": self.momentum, "ema_decay": self.ema_decay}
        if self.betas is not None:
            kept |= {"beta1": self.betas[0], "beta2": self.betas[1]}
        found |= {name: _kept(beta, self.base, rows) for name, beta in kept.items() if beta is not None}
        if self.norm_momentum is not None:
            found["norm_momentum"] = _renewed(self.norm_momentum, self.base, rows)
        if self.weight_decay is not None:
            found["weight_decay"] = weight_decay(self.weight_decay, rows, self.base, rate_factor=factor)
        if self.dropout is not None:
            found["dropout"] = dropout = self.dropout(rows, stats)
            if not 0 <= dropout < 1:
                raise ValueError(f"dropout must be 0 to below 1, got {dropout} for {rows} rows; bound your rule")
        return found


def _kept(beta: float, base: int, rows: float) -> float:
    # Exact at the base size, where a power would round.
    return float(beta) if rows == base else float(beta ** (rows / base))


def _renewed(share: float, base: int, rows: float) -> float:
    if rows == base or share == 1:
        return float(share)
    return -math.expm1(math.log1p(-share) * (rows / base))  # a small share keeps its digits


def _checked_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise SettingsError(f"what a step keeps or renews must be 0 to 1, got {share}; 0.9 is a usual momentum")
    return share


def _checked_base(base: int) -> int:
    if base < 1:
        raise SettingsError(f"a base size must be at least 1, got {base}; give the size at which values were tuned")
    return base
