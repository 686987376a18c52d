"""The rows of the highest priority stay, of equal ones the newest."""

import numpy as np
from frequencies import bound
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay.lowest_priority import LowestPriority

RANDOM = np.random.default_rng(0)
priorities = st.integers(0, 4).map(float)


def test_the_lowest_row_makes_room_and_a_row_lower_than_all_is_not_kept():
    remover = bound(LowestPriority(), 3)

    assert remover.place(3, {}, RANDOM, np.array([5.0, 1.0, 3.0])).tolist() == [0, 1, 2]
    assert remover.place(1, {}, RANDOM, np.array([2.0])).tolist() == [1]
    assert remover.place(2, {}, RANDOM, np.array([0.5, 9.0])).tolist() == [-1, 1]
    remover.reprioritize(np.array([1]), np.array([0.0]))
    assert remover.place(1, {}, RANDOM, np.array([0.0])).tolist() == [1]  # of equal ones the oldest goes


def test_a_row_without_priority_has_the_highest_ever_given():
    remover = bound(LowestPriority(), 2)
    remover.place(1, {}, RANDOM)
    remover.place(1, {}, RANDOM, np.array([0.5]))

    assert remover.place(1, {}, RANDOM, np.array([0.9])).tolist() == [1]
    assert remover.place(1, {}, RANDOM).tolist() == [1]
    assert remover.place(1, {}, RANDOM, np.array([0.8])).tolist() == [-1]
    assert remover.place(1, {}, RANDOM, np.array([0.9])).tolist() == [1]


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_what_stays_is_what_one_row_after_the_other_would_leave(capacity, data):
    remover, table, number = bound(LowestPriority(), capacity), {}, 0
    reference = {}  # the slow one: priority of each row, by its number
    for _ in range(8):
        new = data.draw(st.lists(priorities, max_size=12))
        for slot, priority in zip(remover.place(len(new), {}, RANDOM, np.array(new)).tolist(), new, strict=True):
            reference[number] = priority
            if len(reference) > capacity:
                del reference[min(reference, key=lambda row: (reference[row], row))]
            if slot >= 0:
                table[slot] = number
            number += 1
        assert sorted(table.values()) == sorted(reference)
        slots = np.array(sorted(data.draw(st.sets(st.sampled_from(sorted(table))))) if table else [], np.int64)
        if data.draw(st.booleans()):
            remover.drop(slots)
            for slot in slots.tolist():
                del reference[table.pop(slot)]
        else:
            given_ = data.draw(st.lists(priorities, min_size=len(slots), max_size=len(slots)))
            remover.reprioritize(slots, np.array(given_))
            reference |= {table[slot]: priority for slot, priority in zip(slots.tolist(), given_, strict=True)}
