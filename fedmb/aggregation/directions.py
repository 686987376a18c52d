"""Where the server goes from a round's change of a parameter, before the rate: momentum, and three that adapt.

Source: Reddi et al. 2021, arXiv:2003.00295, algorithm 2; momentum: Hsu et al. 2019, arXiv:1909.06335, section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Model = dict[str, NDArray[Any]]


class Direction(Protocol):
    """Where a parameter goes, before the rate: a function of its change and of moments that it keeps."""

    moments: ClassVar[tuple[str, ...]]
    """Their names."""

    def __call__(self, change: NDArray[Any], kept: Model) -> tuple[NDArray[Any], Model]:
        """The direction, and all moments for the next step; `kept` is empty before the first."""
        ...


@dataclass(frozen=True, slots=True)
class Momentum:
    """FedAvgM: `m = momentum * m + change`, which is the direction.

    Args:
        momentum: what is kept of the steps before, in [0, 1).

    Raises:
        SettingsError: it is out of its range.
    """

    momentum: float = 0.9
    moments: ClassVar[tuple[str, ...]] = ("m",)

    def __post_init__(self) -> None:
        check_share(self.momentum, "momentum")

    def __call__(self, change: NDArray[Any], kept: Model) -> tuple[NDArray[Any], Model]:
        """The moment."""
        moment = self.momentum * kept["m"] + change if kept else change
        return moment, {"m": moment}


@dataclass(frozen=True, slots=True)
class Adam:
    """FedAdam: `m / (sqrt(v) + tau)` with `v = beta2 * v + (1 - beta2) * change ** 2`, without bias correction.

    Args:
        betas: what is kept of both moments, in [0, 1).
        tau: added to the root of the second moment, which begins at its square: small adapts more.

    Raises:
        SettingsError: a number is out of its range.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3
    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        _check_adaptive(self.betas, self.tau)

    def __call__(self, change: NDArray[Any], kept: Model) -> tuple[NDArray[Any], Model]:
        """The first moment over the root of the second."""
        first, second = _moments(change, kept, self.tau)
        first = self.betas[0] * first + (1 - self.betas[0]) * change
        second = self.betas[1] * second + (1 - self.betas[1]) * change**2
        return first / (np.sqrt(second) + self.tau), {"m": first, "v": second}


@dataclass(frozen=True, slots=True)
class Yogi:
    """FedYogi: as `Adam`, but `v` moves by `(1 - beta2) * change ** 2` either way: it grows no faster than it shrinks.

    Args:
        betas: as of `Adam`.
        tau: as of `Adam`.

    Raises:
        SettingsError: a number is out of its range.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3
    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        _check_adaptive(self.betas, self.tau)

    def __call__(self, change: NDArray[Any], kept: Model) -> tuple[NDArray[Any], Model]:
        """The first moment over the root of the second."""
        first, second = _moments(change, kept, self.tau)
        first = self.betas[0] * first + (1 - self.betas[0]) * change
        square = change**2
        second = second - (1 - self.betas[1]) * square * np.sign(second - square)
        return first / (np.sqrt(second) + self.tau), {"m": first, "v": second}


@dataclass(frozen=True, slots=True)
class Adagrad:
    """FedAdagrad: `change / (sqrt(v) + tau)` with `v = v + change ** 2`, which never forgets.

    Args:
        tau: as of `Adam`.

    Raises:
        SettingsError: it is out of its range.
    """

    tau: float = 1e-3
    moments: ClassVar[tuple[str, ...]] = ("v",)

    def __post_init__(self) -> None:
        check_positive(self.tau, "tau")

    def __call__(self, change: NDArray[Any], kept: Model) -> tuple[NDArray[Any], Model]:
        """The change over the root of the second moment."""
        second = (kept["v"] if kept else np.full_like(change, self.tau**2)) + change**2
        return change / (np.sqrt(second) + self.tau), {"v": second}


def check_positive(value: float, key: str) -> None:
    """Refuse what is not above 0 and finite.

    Raises:
        SettingsError: it is not.
    """
    if not (value > 0 and math.isfinite(value)):
        raise SettingsError(
            f"{key} must be above 0 and finite, got {value}; 0.1 is usual for a rate, 0.001 for tau",
            key=f"aggregation.optimizer.{key}",
        )


def check_share(value: float, key: str) -> None:
    """Refuse what does not lie in [0, 1).

    Raises:
        SettingsError: it does not.
    """
    if not 0 <= value < 1:
        raise SettingsError(
            f"{key} must be at least 0 and below 1, got {value}; 0.9 is usual", key=f"aggregation.optimizer.{key}"
        )


def _check_adaptive(betas: tuple[float, float], tau: float) -> None:
    check_share(betas[0], "betas")
    check_share(betas[1], "betas")
    check_positive(tau, "tau")


def _moments(change: NDArray[Any], kept: Model, tau: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both moments before a step; the paper wants a second one of at least the square of tau."""
    return (kept["m"], kept["v"]) if kept else (np.zeros_like(change), np.full_like(change, tau**2))
