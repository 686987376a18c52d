"""Collected slots lie where they were wanted, and an order stays an order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.replay.slot_order import SlotOrder, slot_numbers


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_collected_slots_lie_in_their_order_and_all_others_are_still_there(capacity, data):
    slots = SlotOrder(capacity)
    for _ in range(4):
        chosen = data.draw(st.lists(st.integers(0, capacity - 1), unique=True))
        start = data.draw(st.integers(0, capacity - len(chosen)))
        before = slots.order.copy()

        slots.collect(np.array(chosen, np.int64), start)

        stop = start + len(chosen)
        stayed = [place for place in range(capacity) if not start <= place < stop and before[place] not in chosen]
        assert slots.order[start:stop].tolist() == chosen
        assert sorted(slots.order.tolist()) == list(range(capacity))
        assert slots.places[slots.order].tolist() == list(range(capacity))
        assert slots.order[stayed].tolist() == before[stayed].tolist()


def test_an_order_can_begin_with_given_slots():
    slots = SlotOrder(6)

    slots.begin_with(np.array([4, 1], np.int32))

    assert slots.order.tolist() == [4, 1, 0, 2, 3, 5]
    assert slots.at(np.array([0, 5])).tolist() == [4, 5]
    for wrong in ([6], [-1], [2, 2]):
        with pytest.raises(ShapeError):
            slots.begin_with(np.array(wrong))


def test_a_million_slots_are_counted_in_four_bytes():
    assert slot_numbers(10**6) is np.int32
    assert slot_numbers(2**31) is np.int64
