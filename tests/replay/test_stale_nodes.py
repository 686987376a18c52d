"""Parents of written leaves are named once, or all of them at once where they are many."""

import numpy as np

from fedmb.replay.stale_nodes import MAX_PARTS, StaleNodes


def test_parents_of_written_leaves_are_named_and_then_forgotten():
    stale = StaleNodes(1000)

    assert not stale
    stale.add(np.array([5, 17]))
    assert stale
    assert stale.take().tolist() == [0, 1]
    assert not stale
    stale.add(np.array([33, 16]))
    stale.add(np.array([17, 0]))
    assert stale.take().tolist() == [0, 1, 2]


def test_one_leaf_a_write_does_not_pile_up():
    stale = StaleNodes(1000)

    for leaf in range(100 * MAX_PARTS):
        stale.add(np.array([leaf % 320]))
        assert len(stale._parts) <= MAX_PARTS

    assert stale.take().tolist() == list(range(20))


def test_where_many_parents_are_stale_all_are():
    stale = StaleNodes(1000)

    stale.add(np.arange(0, 4000))
    stale.add(np.arange(4000, 8000))

    assert stale.take() is None
    assert not stale
    stale.add_all()
    stale.add(np.array([1]))
    assert stale.take() is None
    assert not stale
