"""Chances for numbered rows: numbers in [0, 1) that follow from (seed, client, purpose, row number) alone.

Whoever decides over row number n by them decides the same after a crash, on another machine, and however the stream
is cut into batches; no generator has to be kept or rewound.

Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA (SplitMix64), here addressed
by position: output number i is a mix of `key + i * GAMMA`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import SettingsError
from fedmb.seeding import key_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # odd, and near the golden ratio: successive keys differ in many bits
MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
LAST_SHIFT = np.uint64(31)
SPARE_BITS = np.uint64(11)  # a float64 holds 53 of 64 bits
UNIT = 2.0**-53


class RowChances:
    """Chances of the rows of one stream.

    Args:
        seed: the run's seed, 0 or more.
        client: name or number of the site.
        purpose: what is decided; different purposes have unrelated chances.
        num_lanes: chances a row.

    Raises:
        SettingsError: the seed is negative.
    """

    def __init__(self, seed: int, client: str | int, purpose: str, *, num_lanes: int = 1) -> None:
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        low, high, *_ = key_words(seed, client, purpose)
        self._key = np.uint64(low | high << 32)
        self._lanes = np.arange(1, num_lanes + 1, dtype=np.uint64)
        self._num_lanes = np.uint64(num_lanes)

    def at(self, first: int, count: int) -> NDArray[np.float64]:
        """`(lanes, rows)`: chances of rows number `first` to `first` + `count` - 1."""
        numbers = np.arange(first, first + count, dtype=np.uint64)
        bits = self._key + (numbers * self._num_lanes + self._lanes[:, None]) * GAMMA
        for shift, factor in MIXERS:
            bits ^= bits >> shift
            bits *= factor
        bits ^= bits >> LAST_SHIFT
        chances = (bits >> SPARE_BITS).astype(np.float64)
        chances *= UNIT
        return chances
