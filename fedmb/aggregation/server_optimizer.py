"""Optimisers of the server: a step from the round's model before towards what its clients' models became.

    change = combined - before              # the rule's answer; the pseudo-gradient is -change
    model  = before + step(change)          # parameters only

Floating arrays that are no parameters, such as the running statistics of batch norm, are what the rule made of them:
a variance that is stepped with momentum may fall below 0. Whole numbers are left alone too. What is remembered has the
dtype of the parameter, but float32 for 16-bit ones, which are rounded once, when the step is taken.

Source: Reddi et al. 2021, arXiv:2003.00295, algorithm 2; momentum: Hsu et al. 2019, arXiv:1909.06335, section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from fedmb.arrays.bfloat16 import BFLOAT16, is_finite, is_real, rounded, widened
from fedmb.errors import Diverged, SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


class ServerOptimizer(Protocol):
    """Makes the next model of the one before and the rule's answer, and remembers what it needs for the one after."""

    def step(self, before: Arrays, combined: Arrays) -> Model:
        """The next model, in the dtypes of `combined`.

        Raises:
            Diverged: a parameter is no longer finite.
        """
        ...

    def state_dict(self) -> Model:
        """What is remembered, as named arrays; empty before the first step."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning.

        Raises:
            SettingsError: it is another optimiser's.
        """
        ...


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


class Stepping:
    """Steps of `rate * direction`.

    Args:
        direction: where each parameter goes.
        rate: learning rate of the server; 1 with `Momentum(0)` takes the rule's answer as it is.
        parameters: names of the arrays that step; every floating one if left out.

    Raises:
        SettingsError: the rate is not above 0.
    """

    def __init__(self, direction: Direction, *, rate: float, parameters: Collection[str] | None = None) -> None:
        check_positive(rate, "rate")
        self.direction = direction
        self.rate = rate
        self.parameters = None if parameters is None else frozenset(parameters)
        self._kept: dict[str, Model] = {}

    def step(self, before: Arrays, combined: Arrays) -> Model:
        """The next model, in the dtypes of `combined`.

        Raises:
            Diverged: a parameter is no longer finite.
        """
        model = dict(combined)
        for name in stepped(combined, self.parameters):
            old = widened(before[name])
            with np.errstate(over="ignore", invalid="ignore"):  # told below, with a sentence
                towards, kept = self.direction(widened(combined[name]) - old, self._kept.get(name, {}))
                model[name] = in_dtype(np.asarray(old + self.rate * towards), combined[name].dtype)
            self._kept[name] = {moment: np.asarray(array) for moment, array in kept.items()}
        check_step(model)
        return model

    def state_dict(self) -> Model:
        """The moments, by moment and array."""
        return {
            f"{moment}/{name}": kept[moment]
            for moment in self.direction.moments
            for name, kept in sorted(self._kept.items())
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from there.

        Raises:
            SettingsError: it is another optimiser's.
        """
        found: dict[str, Model] = {}
        for key, array in state.items():
            moment, _, name = key.partition("/")
            found.setdefault(name, {})[moment] = np.asarray(array)
        wanted = set(self.direction.moments)
        for kept in found.values():
            if kept.keys() != wanted:
                raise other_memory(type(self.direction).__name__, ", ".join(sorted(kept)))
        self._kept = found

    def __str__(self) -> str:
        return f"{self.direction}, rate {self.rate:g}"


def stepped(model: Arrays, parameters: Collection[str] | None) -> Iterator[str]:
    """Names of the arrays that step, in the model's order."""
    return (
        name for name, array in model.items() if is_real(array.dtype) and (parameters is None or name in parameters)
    )


def in_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in a parameter's dtype, rounded once."""
    return rounded(values) if dtype == BFLOAT16 else values.astype(dtype, copy=False)


def check_step(model: Arrays) -> None:
    """Refuse a model that a step has broken.

    Raises:
        Diverged: a floating array holds a value that is not finite.
    """
    for name, array in model.items():
        if not is_finite(array):
            raise Diverged(
                f"every parameter must stay finite, {name!r} did not after the server's step; lower "
                "aggregation.optimizer.rate and resume the run"
            )


def other_memory(name: str, found: str) -> SettingsError:
    """The error of an optimiser that is to go on with what another one remembered."""
    return SettingsError(
        f"a run keeps its server optimiser, got {name} for a checkpoint with {found!r} of another one; set "
        "aggregation.optimizer.name as it was, or start a new run",
        key="aggregation.optimizer.name",
    )


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
