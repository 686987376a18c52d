"""Which learning rate goes with a batch.

Every rule answers a factor of the base rate, the one tuned at `base_size`. All but the square roots are one
expression in the noise scale n,

    gain = (1 + n / base_size) / (1 + n / size)

which is size / base_size for n = inf (the linear rule) and 1 for n = 0 (a constant rate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from fedmb.errors import SettingsError
from fedmb.sizing.schedule import constant, warmup

if TYPE_CHECKING:
    from fedmb.sizing.schedule import Schedule

Scaling: TypeAlias = Callable[[float, float, float | None], float]
"""(size, base size, noise or None) -> factor of the base rate."""


def linear_scaled(base_rate: float, size: float, base_size: float) -> float:
    """Learning rate for a batch of `size`, proportional to it.

    Holds while the size stays below the noise scale; past that, prefer `gain`. Warm up.

    Raises:
        SettingsError: a size is not positive.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.1.
    """
    return base_rate * linear(size, base_size)


def sqrt_scaled(base_rate: float, size: float, base_size: float) -> float:
    """Learning rate for a batch of `size`, proportional to its square root; the usual rule for Adam and its kin.

    Raises:
        SettingsError: a size is not positive.

    Source: Krizhevsky 2014, arXiv:1404.5997 (the variance of a step stays); for Adam, Malladi et al. 2022,
    arXiv:2205.10287.
    """
    return base_rate * sqrt(size, base_size)


def linear(size: float, base_size: float, _noise: float | None = None) -> float:
    """Factor `size / base_size`, whatever the noise."""
    return _ratio(size, base_size)


def sqrt(size: float, base_size: float, _noise: float | None = None) -> float:
    """Factor `sqrt(size / base_size)`, whatever the noise."""
    return math.sqrt(_ratio(size, base_size))


def unscaled(_size: float, _base_size: float, _noise: float | None = None) -> float:
    """Factor 1: the rate does not follow the batch."""
    return 1.0


def gain(size: float, base_size: float, noise: float | None) -> float:
    """Factor `(1 + noise / base_size) / (1 + noise / size)`: as much as the clearer gradient carries.

    While the noise is unknown (None) it answers the smaller of its limits 1 and `size / base_size`, the safe side.

    Raises:
        SettingsError: a size is not positive.
        ValueError: the noise is negative.

    Source: Johnson et al. 2020 (AdaScale), arXiv:2007.05105: its gain ratio is (s + m) / (s / S + m), with the variance
    s of the base size's gradient, the square m of the true one and S = size / base_size. The same as McCandlish et al.
    2018, arXiv:1812.06162, equation 2.6, relative to the base size.
    """
    ratio = _ratio(size, base_size)
    if noise is None:
        return min(1.0, ratio)
    if not noise >= 0:
        raise ValueError(f"a noise scale must be at least 0, got {noise}; pass None while it is unknown")
    return ratio if math.isinf(noise) else (1 + noise / base_size) / (1 + noise / size)


def adam_gain(size: float, base_size: float, noise: float | None) -> float:
    """Factor `sqrt(gain)`, for Adam and its kin, whose step is already divided by the gradient's size.

    Source: AdaptDL's `AdamScale` (Qiao et al. 2021, arXiv:2008.12260).
    """
    return math.sqrt(gain(size, base_size, noise))


def legw(size: int, *, base_size: int, warmup_samples: float) -> Schedule:
    """Square-root scaling with a warmup as much longer as the batch is larger; for a run of one size.

    Args:
        size: rows in a batch.
        base_size: size at which rate and warmup were tuned.
        warmup_samples: length of the warmup at the base size.

    Raises:
        SettingsError: a size is not positive or the warmup negative.

    Source: LEGW: You et al. 2019, arXiv:1901.08256 (linear-epoch gradual warmup).
    """
    ratio = _ratio(size, base_size)
    return constant(math.sqrt(ratio)) * warmup(ratio * warmup_samples, start=0.0)


def _ratio(size: float, base_size: float) -> float:
    if not (size > 0 and base_size > 0):
        raise SettingsError(f"sizes must be positive, got {size} and base {base_size}; give the size of the tuned rate")
    return size / base_size
