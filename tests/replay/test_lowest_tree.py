"""A tree of minima finds the lowest leaves, of equal ones those of the lowest rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay.lowest_tree import LowestTree, lowest_places


def lowest(values, ranks, count):
    """The slow reference."""
    return sorted(range(len(values)), key=lambda place: (values[place], ranks[place]))[:count]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_the_lowest_pairs_are_found(values, count, seed):
    ranks = np.random.default_rng(seed).permutation(len(values))

    places = lowest_places(np.array(values, float), ranks, count)

    assert sorted(places.tolist()) == sorted(lowest(values, ranks, count))


@pytest.mark.parametrize("capacity", [1, 50, 4097, 70_000])
def test_the_lowest_leaves_are_found_after_any_writes(capacity):
    random, tree = np.random.default_rng(capacity), LowestTree(capacity)
    rank = 0
    for step in range(12):
        slots = random.choice(capacity, int(random.integers(1, min(capacity, 3000) + 1)), replace=False)
        if step % 4 == 3:
            tree.forget(slots)
        elif step % 4 == 2:
            slots = slots[np.isfinite(tree.values[slots])]
            tree.set(slots, random.integers(0, 5, len(slots)).astype(float))
        else:
            tree.set(slots, random.integers(0, 5, len(slots)).astype(float), np.arange(rank, rank + len(slots)))
            rank += len(slots)
        held = np.flatnonzero(np.isfinite(tree.values))
        order = held[np.lexsort((tree.ranks[held], tree.values[held]))]
        for count in (1, 7, 300):
            assert tree.lowest(count).tolist() == order[:count].tolist()
    again = LowestTree(capacity)
    again.load(tree.values, tree.ranks)

    assert again.lowest(50).tolist() == tree.lowest(50).tolist()
