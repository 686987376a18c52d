"""Noise that nobody can repeat: standard normal and uniform numbers from the system's entropy.

A seeded generator would let whoever knows the seed take the noise off again. Numbers are made in float64 by Box and
Muller's formula, 53 bits each; that the last bits of a float tell a little of what it was added to (Mironov 2012) is
not defended against.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from fedmb.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 53  # of a float64's fraction


class Unpredictable:
    """The system's entropy."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Numbers in (0, 1], `(count,)`."""
        words = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(64 - _BITS)
        return np.asarray((words + 1.0) / 2.0**_BITS, np.float64)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers, `(count,)`."""
        half = -(-count // 2)
        radius = np.sqrt(-2.0 * np.log(self.uniforms(half)))
        angle = 2.0 * math.pi * self.uniforms(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def begin(self, number: int) -> None:
        """Nothing depends on the round."""


class Seeded:
    """The run's seed: the same numbers in every run, which protect nobody who knows it.

    Args:
        seed: of the run.
        client: whose noise it is; nobody's where the server draws it.
    """

    def __init__(self, seed: int, client: str = "") -> None:
        self._seed = seed
        self._client = (client,) if client else ()
        self.begin(0)

    def begin(self, number: int) -> None:
        """Draw for round `number` from here on, whatever was drawn before."""
        self._generator = generator(self._seed, *self._client, number, "privacy")

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), `(count,)`."""
        return self._generator.random(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers, `(count,)`."""
        return self._generator.standard_normal(count)
