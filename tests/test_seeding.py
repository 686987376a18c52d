"""Generators are independent for different keys and equal for equal ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedmb.seeding import generator, key_words, torch_seed

KEYS = st.lists(st.integers() | st.text(max_size=4), max_size=4).map(tuple)


def draws(seed: int, *key: int | str) -> list[int]:
    return generator(seed, *key).integers(0, 1 << 62, 4).tolist()


def test_client_one_at_epoch_zero_is_not_client_zero_at_epoch_one():
    assert draws(7, 1, 0, "order") != draws(7, 0, 1, "order")


def test_a_number_and_its_text_are_different_keys():
    assert draws(7, 1) != draws(7, "1")


def test_neighbouring_parts_do_not_run_together():
    assert draws(7, "ab", "c") != draws(7, "a", "bc")
    assert draws(7, 11, 1) != draws(7, 1, 11)


@settings(deadline=None)
@given(st.integers(0, 1 << 64), KEYS)
def test_equal_keys_give_equal_draws(seed, key):
    assert draws(seed, *key) == draws(seed, *key)


@settings(deadline=None)
@given(KEYS, KEYS)
def test_different_keys_have_different_words(one, other):
    assume(one != other)

    assert key_words(*one) != key_words(*other)


def test_streams_of_neighbouring_keys_are_uncorrelated():
    keys = list(itertools.product([0, 1], range(8), range(8), ["order", "replay"]))
    drawn = np.stack([generator(seed, client, epoch, name).random(512) for seed, client, epoch, name in keys])

    off_diagonal = np.corrcoef(drawn)[np.triu_indices(len(keys), 1)]

    # 32,640 pairs of 512 draws: the standard deviation of one is 0.0442, 6 of them are met once in 10^9.
    assert np.abs(off_diagonal).max() < 6 / np.sqrt(512)
    assert np.std(off_diagonal) == pytest.approx(1 / np.sqrt(512), rel=0.03)


@settings(deadline=None)
@given(st.integers(0, 1 << 64), KEYS)
def test_a_torch_seed_is_a_63_bit_number_that_follows_from_its_key(seed, key):
    assert 0 <= torch_seed(seed, *key) < 1 << 63
    assert torch_seed(seed, *key) == torch_seed(seed, *key)


def test_torch_seeds_of_neighbouring_keys_differ():
    seeds = {torch_seed(0, client, epoch) for client in range(32) for epoch in range(32)}

    assert len(seeds) == 32 * 32


def test_numpy_integers_name_the_same_stream_as_pythons():
    assert key_words(np.int64(4), "a") == key_words(4, "a")
