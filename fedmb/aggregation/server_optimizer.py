"""Optimisers of the server: a step from the round's model before towards what its clients' models became.

    change = combined - before              # the rule's answer; the pseudo-gradient is -change
    model  = before + step(change)          # parameters only

Floating arrays that are no parameters, such as the running statistics of batch norm, are what the rule made of them:
a variance that is stepped with momentum may fall below 0. Whole numbers are left alone too. What is remembered has the
dtype of the parameter, but float32 for 16-bit ones, which are rounded once, when the step is taken.

Source: Reddi et al. 2021, arXiv:2003.00295, algorithm 2; momentum: Hsu et al. 2019, arXiv:1909.06335, section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.aggregation.directions import check_positive
from fedmb.arrays.bfloat16 import BFLOAT16, is_finite, is_real, rounded, widened
from fedmb.errors import Diverged, SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from fedmb.aggregation.directions import Direction
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
