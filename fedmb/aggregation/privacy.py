"""`[aggregation.privacy]`: how much the models of a run may tell of any one client, and the mean that keeps to it.

    change_k = model_k - before, shortened to clip_norm where it is longer
    model    = before + (sum of the changes) / clients + N(0, (noise_multiplier * clip_norm / clients) ** 2)

`clients` is a fixed number: a mean over those who came would change with each of them, and a weight is a fact of a
client's rows. So one client, whatever it sends, moves the sum by `clip_norm` at most, and the noise is sized by that.

Only parameters move; other floating arrays and whole numbers, which clients would leak unseen, stay as they were.

Source: McMahan et al. 2018, arXiv:1710.06963, algorithm 1; adaptive clipping: Andrew et al. 2021, arXiv:1905.03871,
algorithm 1 and theorem 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from fedmb.aggregation.blockwise import changes, weighted_sum
from fedmb.aggregation.server_optimizer import in_dtype, stepped
from fedmb.arrays.bfloat16 import widened
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

_COUNT_NOISE = 20  # clients a unit of noise on the count that clipping adapts by, as in the paper's experiments


class Privacy(Section):
    """What the models of a run may tell of any one client; see docs/guide/privacy.md."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Longest change of the model that counts of a client; what is set switches privacy on."""
    noise_multiplier: float = Field(default=1.0, gt=0)
    """Standard deviation of the noise on the sum of changes, in clip_norms."""
    clients: int | None = Field(default=None, ge=1)
    """What the sum is divided by, whoever comes: the number of clients that a round is expected to have."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Chance that epsilon does not hold; far below one over the number of clients."""
    epsilon: float = Field(default=math.inf, gt=0)
    """Budget: the run ends before the round that would pass it; inf only counts."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Let clip_norm, from its first value on, follow the lengths of changes: this share of them is to be shorter."""
    quantile_rate: float = Field(default=0.2, gt=0)
    """quantile: how fast it follows."""
    randomness: Literal["unpredictable", "seeded"] = "unpredictable"
    """Where noise and selection come from: the system's entropy, or the run's seed, which repeats a run and protects
    nobody who knows the seed."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Privacy:
        if not self.is_on:
            changed = sorted(self.model_fields_set - {"clip_norm"})
            changed = [name for name in changed if getattr(self, name) != type(self).model_fields[name].default]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} is read with clip_norm, got none; set clip_norm or leave it out"
                )
            return self
        if self.clients is None:
            raise ValueError(
                f"privacy divides by a fixed number of clients, got clip_norm {self.clip_norm} and no clients; set "
                "aggregation.privacy.clients"
            )
        for name in ("clip_norm", "noise_multiplier", "quantile_rate"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}; 1 is usual")
        if self.quantile is None and self.quantile_rate != Privacy.model_fields["quantile_rate"].default:
            raise ValueError(f"quantile_rate is read with quantile, got {self.quantile_rate}; set quantile")
        if self.quantile is not None and self.noise_multiplier >= 2 * self.count_noise:
            raise ValueError(
                f"a clip_norm that adapts needs a noise_multiplier below {2 * self.count_noise:g} with {self.clients} "
                f"clients, got {self.noise_multiplier:g}; set quantile aside or count on more clients"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether changes are clipped and noised at all."""
        return self.clip_norm is not None

    @property
    def count_noise(self) -> float:
        """Standard deviation of the noise on the number of clients whose change was short."""
        return (self.clients or 1) / _COUNT_NOISE

    def mean(
        self, noise: Callable[[int], NDArray[np.float64]], parameters: Collection[str] | None = None
    ) -> PrivateMean:
        """The mean itself.

        Args:
            noise: draws so many standard normal numbers.
            parameters: names of the arrays that are trained; every floating one if left out.
        """
        assert self.clip_norm is not None
        assert self.clients is not None
        return PrivateMean(
            self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            clients=self.clients,
            noise=noise,
            parameters=parameters,
            quantile=self.quantile,
            quantile_rate=self.quantile_rate,
        )


class PrivateMean:
    """The clipped and noised mean; with `quantile` its clipping norm is remembered from round to round.

    Args:
        clip_norm: longest change that counts, over all floating arrays.
        noise_multiplier: standard deviation of all noise of a round, in the longest change that a client can make.
        clients: what the sum is divided by.
        noise: draws so many standard normal numbers.
        parameters: names of the arrays that move; every floating one if left out.
        quantile: share of changes that is to be shorter than the clipping norm; None keeps that as it is.
        quantile_rate: how fast it follows.
    """

    def __init__(
        self,
        clip_norm: float,
        *,
        noise_multiplier: float,
        clients: int,
        noise: Callable[[int], NDArray[np.float64]],
        parameters: Collection[str] | None = None,
        quantile: float | None = None,
        quantile_rate: float = 0.2,
    ) -> None:
        self.clip_norm = clip_norm
        self.noise_multiplier = noise_multiplier
        self.clients = clients
        self.parameters = None if parameters is None else frozenset(parameters)
        self.quantile = quantile
        self.quantile_rate = quantile_rate
        self._noise = noise
        self._count_noise = clients / _COUNT_NOISE

    @property
    def change_multiplier(self) -> float:
        """Noise on the changes, in clipping norms: all of it, or what the count leaves (theorem 1 of Andrew et al.)."""
        if self.quantile is None:
            return self.noise_multiplier
        return float((self.noise_multiplier**-2 - (2 * self._count_noise) ** -2) ** -0.5)

    def least(self, refused: int = 0) -> int:
        """None: a round in which nobody came must not be told from others."""
        return 0

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """The model before, moved by the sum of shortened changes over `clients` and by noise; no weight counts."""
        model = {name: np.array(array) for name, array in before.items()}
        lengths = np.zeros(0)
        if len(stack):
            lengths = np.sqrt(changes(stack, before)[0])
            kept = np.minimum(1.0, self.clip_norm / np.maximum(lengths, np.finfo(float).tiny))
            rest = self.clients - float(sum(kept.tolist()))
            moved = weighted_sum(stack, kept, float(self.clients), beside=(before, rest) if rest else None)
            model |= {name: moved[name] for name in stepped(before, self.parameters)}
        deviation = self.change_multiplier * self.clip_norm / self.clients
        for name in sorted(stepped(model, self.parameters)):
            array = model[name]
            noised = widened(array) + deviation * self._noise(array.size).reshape(array.shape)
            model[name] = in_dtype(np.asarray(noised), array.dtype)
        self._adapt(lengths)
        return model

    def _adapt(self, lengths: NDArray[np.float64]) -> None:
        """Move the clipping norm by the noised share of changes that were shorter than it."""
        if self.quantile is None:
            return
        # Halves, so that one client moves the sum by a half at most, whether it comes or not.
        halves = float(np.sum(np.where(lengths <= self.clip_norm, 0.5, -0.5)))
        noised = (halves + self._count_noise * float(self._noise(1)[0])) / self.clients + 0.5
        self.clip_norm *= math.exp(-self.quantile_rate * (min(max(noised, 0.0), 1.0) - self.quantile))

    def state_dict(self) -> Model:
        """The clipping norm, where it adapts."""
        return {} if self.quantile is None else {"clip_norm": np.array(self.clip_norm)}

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning."""
        if "clip_norm" in state and self.quantile is not None:
            self.clip_norm = float(state["clip_norm"])

    def __str__(self) -> str:
        return f"PrivateMean(clip_norm={self.clip_norm:g}, noise_multiplier={self.noise_multiplier:g})"
