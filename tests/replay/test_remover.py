"""First in first out, and last in first out."""

import numpy as np
from frequencies import bound
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay.remover import Fifo, Lifo

RANDOM = np.random.default_rng(0)


def test_the_oldest_row_goes_first_in_rounds():
    fifo = bound(Fifo(), 5)

    placed = [fifo.place(count, {}, RANDOM) for count in (3, 4, 12)]
    fifo.drop(np.array([1]))

    assert np.concatenate(placed).tolist() == [number % 5 for number in range(19)]
    assert fifo.place(2, {}, RANDOM).tolist() == [4, 0]


def test_the_newest_row_goes_first_once_there_is_no_room():
    lifo = bound(Lifo(), 4)

    assert lifo.place(3, {}, RANDOM).tolist() == [0, 1, 2]
    assert lifo.place(3, {}, RANDOM).tolist() == [3, 3, 3]
    lifo.drop(np.array([0]))
    assert lifo.place(2, {}, RANDOM).tolist() == [0, 0]  # now the newest
    lifo.drop(np.array([0, 3]))
    assert lifo.place(1, {}, RANDOM).tolist() == [3]
    lifo.drop(np.array([3]))
    assert lifo.place(3, {}, RANDOM).tolist() == [3, 0, 0]


@settings(deadline=None)
@given(st.integers(1, 6), st.data())
def test_what_goes_last_in_first_out_is_what_a_stack_gives_up(capacity, data):
    lifo, stack, row = bound(Lifo(), capacity), [], 0  # the slow reference: rows with their slots, oldest first
    for _ in range(15):
        if data.draw(st.booleans()):
            dropped = data.draw(st.sets(st.sampled_from([slot for slot, _ in stack]))) if stack else set()
            lifo.drop(np.array(sorted(dropped), np.int64))
            stack = [(slot, row) for slot, row in stack if slot not in dropped]
        count = data.draw(st.integers(0, 4))
        slots = lifo.place(count, {}, RANDOM).tolist()
        for slot in slots:
            if len(stack) == capacity:
                assert slot == stack.pop()[0]
            assert slot not in {taken for taken, _ in stack}
            stack.append((slot, row))
            row += 1
        assert len(slots) == count
