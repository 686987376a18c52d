"""Slots of dropped rows come again first, then those that were never filled."""

import numpy as np

from fedmb.replay.free_slots import FreeSlots


def test_dropped_slots_come_again_before_new_ones_and_the_last_one_first():
    free = FreeSlots(6)

    assert free.take(3).tolist() == [0, 1, 2]
    free.give(np.array([0, 2]))
    assert len(free) == 5
    assert free.take(1).tolist() == [2]
    assert free.take(9).tolist() == [0, 3, 4, 5]
    assert len(free) == 0
    assert free.take(2).tolist() == []


def test_slots_can_be_given_and_taken_for_ever():
    free, taken = FreeSlots(5), [3]
    free.take(5)

    for step in range(200):
        free.give(np.array(taken))
        taken = free.take(1 + step % 3).tolist()
        assert taken == [3]

    assert len(free._stack) < 10
