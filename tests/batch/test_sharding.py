"""Shares cut a table without losing or doubling a row, skewed as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.sharding import dirichlet_shares, shard
from fedmb.batch.table import TableSource
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


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 40))
def test_workers_parts_are_level_and_follow_each_other(size, world):
    parts = [shard(size, rank, world) for rank in range(world)]

    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(size))
    assert {part.stop - part.start for part in parts} <= {size // world, -(-size // world)}


def test_the_rows_of_every_step_are_the_same_whatever_the_number_of_workers():
    """Four workers for three steps, then two, then seven: each step learns what one worker would have."""
    columns = {"y": np.arange(50)}
    alone = TableSource(columns, seed=0, client="a")
    position = alone.position()
    for world in (4, 2, 7):
        workers = [TableSource(columns, seed=0, client="a") for _ in range(world)]
        for worker in workers:
            worker.seek(position)
        for _ in range(3):
            together = []
            for rank, worker in enumerate(workers):
                batch = worker.take(12)
                part = shard(len(batch), rank, world)
                together += batch.rows(part.start, part.stop).columns["y"].tolist()
            assert together == alone.take(12).columns["y"].tolist()
        position = workers[0].position()


@pytest.mark.parametrize(("size", "rank", "world"), [(5, 2, 2), (5, -1, 2), (5, 0, 0), (-1, 0, 1)])
def test_a_worker_that_is_none_is_refused(size, rank, world):
    with pytest.raises(SettingsError, match="a worker must be 0 to below"):
        shard(size, rank, world)
