"""Shares cut a table without losing or doubling a row, skewed as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.sharding import dirichlet_shares
from fedmb.errors import SettingsError


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.integers(1, 80),
    st.floats(1e-6, 1e6),
    st.integers(0, 1000),
)
def test_every_row_is_in_one_share_and_shares_are_level(labels, shares, alpha, seed):
    shares = min(shares, len(labels))

    parts = dirichlet_shares(np.array(labels), shares, alpha, np.random.default_rng(seed))

    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert {len(part) for part in parts} <= {len(labels) // shares, -(-len(labels) // shares)}
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


def test_equal_generators_give_equal_shares_and_others_other_ones():
    labels = np.arange(300) % 10

    one, same, other = (dirichlet_shares(labels, 7, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def skew(alpha: float) -> float:
    """Mean total variation distance between the shares' label mixes and the table's."""
    labels = np.arange(5000) % 10
    parts = dirichlet_shares(labels, 10, alpha, np.random.default_rng(0))
    mixes = [np.bincount(labels[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([np.abs(mix - 0.1).sum() / 2 for mix in mixes]))


def test_a_small_alpha_skews_and_a_large_one_does_not():
    skews = [skew(alpha) for alpha in (0.1, 1.0, 10.0, 1000.0)]

    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.6
    assert skews[-1] < 0.1


def test_labels_may_be_names_and_may_lack_a_value():
    parts = dirichlet_shares(np.array(["cat", "dog", "cat", "cow"]), 2, 1.0, np.random.default_rng(0))
    missing = dirichlet_shares(np.array([1.0, np.nan, np.nan, 2.0]), 2, 1.0, np.random.default_rng(0))

    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 3]
    assert sorted(np.concatenate(missing).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "shares", "alpha"),
    [
        (np.zeros(3), 4, 1.0),
        (np.zeros(3), 0, 1.0),
        (np.zeros(3), 2, 0.0),
        (np.zeros(3), 2, np.inf),
        (np.zeros((3, 1)), 1, 1.0),
    ],
)
def test_impossible_splits_are_refused(labels, shares, alpha):
    with pytest.raises(SettingsError):
        dirichlet_shares(labels, shares, alpha, np.random.default_rng(0))
