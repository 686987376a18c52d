"""Clients that send what they should not: attacks on a federation, to see what a rule withstands.

Bad clients train like all others and know the model, and what the honest ones of their round have sent; so they must
come last in a grid's order. What they send passes for an update in form. Label flipping is no attack on messages but
on rows: give a bad client a table whose labels are `flipped`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.errors import NotEnoughData
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.ledger import Ledger
    from fedmb.training.round_terms import RoundTerms
    from fedmb.update import Arrays, Update

    Attack = Callable[["Seen"], Arrays]

_FLIPPED = -5.0  # times the honest change
_NOISE = 100.0  # standard deviations of the honest change
_LITTLE = 1.5  # standard deviations between honest clients, few enough to pass for one of them


class Trains(Protocol):
    """The client's half of a round, as `fedmb.training.local_update.LocalUpdate` is."""

    client: str

    def run(
        self,
        arrays: Arrays,
        *,
        base_version: int,
        position: Mapping[str, Any],
        ledger: Ledger | None = None,
        terms: RoundTerms | None = None,
    ) -> Update:
        """What is learnt from `arrays`."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a bad client knows when it decides what to send."""

    own: Arrays
    """What its training gave."""
    before: Arrays
    """What training started from."""
    honest: Sequence[Arrays]
    """What honest clients of the round have sent."""
    random: np.random.Generator


def not_a_number(seen: Seen) -> Arrays:
    """Nothing but NaN."""
    return _floating(seen.own, lambda name: np.full(seen.own[name].shape, np.nan))


def sign_flip(seen: Seen) -> Arrays:
    """Five times the change, the other way."""
    return _floating(
        seen.own, lambda name: seen.before[name] + _FLIPPED * (seen.own[name].astype(np.float64) - seen.before[name])
    )


def noise(seen: Seen) -> Arrays:
    """The change, and a hundred times its spread of Gaussian noise."""
    return _floating(
        seen.own,
        lambda name: (
            seen.own[name]
            + _NOISE * np.std(seen.own[name] - seen.before[name]) * seen.random.standard_normal(seen.own[name].shape)
        ),
    )


def a_little_is_enough(seen: Seen) -> Arrays:
    """The honest mean, moved by 1.5 of the honest clients' standard deviations, element by element.

    Source: ALIE, Baruch et al. 2019, arXiv:1902.06156, algorithm 3, with z fixed.

    Raises:
        NotEnoughData: no honest client has sent anything yet; let bad ones come last.
    """
    if not seen.honest:
        raise NotEnoughData("the attack needs what honest clients sent, got nothing; let bad clients come last")

    def moved(name: str) -> NDArray[Any]:
        sent = np.stack([one[name] for one in seen.honest]).astype(np.float64)
        shifted: NDArray[Any] = sent.mean(axis=0) - _LITTLE * sent.std(axis=0)
        return shifted

    return _floating(seen.own, moved)


ATTACKS: dict[str, Attack] = {"nan": not_a_number, "sign flip": sign_flip, "noise": noise, "alie": a_little_is_enough}


def flipped(labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """Labels turned round: the first class is the last, and so on."""
    turned: NDArray[Any] = (classes - 1 - labels).astype(labels.dtype)
    return turned


def with_bad_clients(
    trainers: Mapping[str, Trains], bad: Sequence[str], attack: Attack | None, *, seed: int
) -> dict[str, Trains]:
    """The same clients, of which those named `bad` attack; they come last.

    Args:
        trainers: all clients, by name.
        bad: who attacks.
        attack: what they send; None lets them send what they learnt.
        seed: decides what is random in an attack.
    """
    sent: dict[int, list[Arrays]] = {}
    honest: dict[str, Trains] = {
        name: _Overheard(trainer, sent) for name, trainer in trainers.items() if name not in bad
    }
    return honest | {name: _Bad(trainers[name], attack, sent, seed) if attack else trainers[name] for name in bad}


class _Overheard:
    """An honest client whose updates the bad ones see."""

    def __init__(self, trainer: Trains, sent: dict[int, list[Arrays]]) -> None:
        self.client = trainer.client
        self._trainer = trainer
        self._sent = sent

    def run(self, arrays: Arrays, *, base_version: int, **told: Any) -> Update:
        update = self._trainer.run(arrays, base_version=base_version, **told)
        for old in [version for version in self._sent if version != base_version]:
            del self._sent[old]
        self._sent.setdefault(base_version, []).append(update.arrays)
        return update


class _Bad:
    """A client that trains, and sends something else."""

    def __init__(self, trainer: Trains, attack: Attack, sent: dict[int, list[Arrays]], seed: int) -> None:
        self.client = trainer.client
        self._trainer = trainer
        self._attack = attack
        self._sent = sent
        self._seed = seed

    def run(self, arrays: Arrays, *, base_version: int, **told: Any) -> Update:
        update = self._trainer.run(arrays, base_version=base_version, **told)
        random = generator(self._seed, self.client, base_version, "attack")
        return replace(
            update, arrays=self._attack(Seen(update.arrays, arrays, self._sent.get(base_version, []), random))
        )


def _floating(arrays: Arrays, changed: Callable[[str], NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """`arrays` with its floating ones changed, in their dtypes."""
    return {
        name: np.asarray(changed(name)).astype(array.dtype) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in arrays.items()
    }
