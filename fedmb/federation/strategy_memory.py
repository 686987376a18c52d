"""What a strategy carries from round to round, so that a checkpoint can hold it: momenta, moments, a clipping norm.

A strategy with `state_dict` and `load_state_dict` says itself what it remembers, as named arrays. Flower's own have
neither; theirs lies in a few attributes, which are known here by name, and wrapped strategies in `strategy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.serverapp.strategy import Strategy
    from numpy.typing import NDArray

    from fedmb.update import Arrays

_MOMENTS = ("m_t", "v_t")  # FedAdam, FedAdagrad, FedYogi: arrays by name
_MOMENTUM = "momentum_vector"  # FedAvgM: a list in the order of the model's names
_ADAPTED = ("clip_norm_lr", "clipping_norm")  # adaptive clipping: who has the first adapts the second
_WRAPPED = "strategy"  # the wrappers of differential privacy


@runtime_checkable
class Remembering(Protocol):
    """A strategy that says itself what it remembers."""

    def state_dict(self) -> Arrays:
        """Named arrays, from which `load_state_dict` goes on."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from there; an empty map is a beginning."""
        ...


def memory_of(strategy: Strategy) -> dict[str, NDArray[Any]]:
    """Everything that `strategy` and those that it wraps remember, as named arrays; empty at the beginning."""
    found: dict[str, NDArray[Any]] = {}
    for depth, one in enumerate(_with_wrapped(strategy)):
        if isinstance(one, Remembering):
            told = dict(one.state_dict())
        else:
            told = {
                f"{moment}/{name}": array
                for moment in _MOMENTS
                for name, array in (getattr(one, moment, None) or {}).items()
            }
            momentum = getattr(one, _MOMENTUM, None) or []
            told |= {f"{_MOMENTUM}/{place:06d}": array for place, array in enumerate(momentum)}
            if hasattr(one, _ADAPTED[0]):
                told[_ADAPTED[1]] = np.asarray(getattr(one, _ADAPTED[1]), np.float64)
        found |= {f"{depth}/{name}": np.asarray(array) for name, array in told.items()}
    return found


def remember(strategy: Strategy, memory: Arrays) -> None:
    """Let a strategy that was just made go on with what `memory_of` another of its kind answered."""
    for depth, one in enumerate(_with_wrapped(strategy)):
        own = {name.partition("/")[2]: array for name, array in memory.items() if name.startswith(f"{depth}/")}
        if isinstance(one, Remembering):
            one.load_state_dict(own)
            continue
        for moment in _MOMENTS:
            if arrays := {n.partition("/")[2]: a for n, a in own.items() if n.startswith(f"{moment}/")}:
                setattr(one, moment, arrays)
        if momentum := [own[name] for name in sorted(own) if name.startswith(f"{_MOMENTUM}/")]:
            setattr(one, _MOMENTUM, momentum)
        if hasattr(one, _ADAPTED[0]) and _ADAPTED[1] in own:
            setattr(one, _ADAPTED[1], float(own[_ADAPTED[1]]))


def begin_from_what_is_sent(strategy: Strategy) -> None:
    """Let FedAvgM step from the model that clients get: it keeps its own answer, not yet rounded to 16 bits."""
    for one in _with_wrapped(strategy):
        if hasattr(one, _MOMENTUM):
            one.current_arrays = None


def _with_wrapped(strategy: Strategy) -> Iterator[Any]:  # attributes differ from strategy to strategy
    one: Any = strategy
    while one is not None:
        yield one
        one = getattr(one, _WRAPPED, None)
