"""Independent random generators, one for each (run seed, client, round, purpose).

Adding such numbers (`seed + epoch`) makes client 1 at epoch 0 draw what client 0 draws at epoch 1; here every key
is hashed into the seed sequence instead, so no two keys share a stream.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key_words(*key: int | str) -> list[int]:
    """Eight 32-bit words that name `key`; different keys, `1` and `"1"` included, give different words."""
    # NumPy integers are integers here: their repr differs from Python's, and would name another stream.
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return [int.from_bytes(digest[start : start + 4], "little") for start in range(0, 32, 4)]


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A generator that depends on `seed` and every part of `key`, and on nothing else.

    Philox is counter-based: making one costs microseconds and needs no warm-up, so callers make a generator for
    each draw that must be repeatable and keep no generator state.
    """
    sequence = np.random.SeedSequence([seed, *key_words(*key)])
    return np.random.Generator(np.random.Philox(sequence))


def torch_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed for `torch.manual_seed`, keyed like `generator`."""
    low, high = np.random.SeedSequence([seed, *key_words(*key)]).generate_state(2, np.uint32)
    return int(low) | (int(high) & 0x7FFFFFFF) << 32
