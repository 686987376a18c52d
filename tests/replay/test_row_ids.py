import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.replay.row_ids import FifoIds, SlotIds


def found(ids, asked):
    slots, where = ids.find(np.array(asked, np.int64))
    kept = np.array(asked)[where] if where is not None else np.array(asked)
    return dict(zip(kept.tolist(), slots.tolist(), strict=True))


@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=8))
def test_in_order_an_id_is_the_number_of_its_row(capacity, counts):
    ids = FifoIds(capacity)

    for count in counts:
        ids.appended += count
        ids.oldest = max(ids.oldest, ids.appended - capacity)

        alive = range(ids.oldest, ids.appended)
        assert len(ids) == len(alive)
        assert ids.held().tolist() == [number % capacity for number in alive]
        assert ids.ids_of(ids.held()).tolist() == list(alive)
        assert found(ids, range(-3, ids.appended + 3)) == {number: number % capacity for number in alive}


@given(st.integers(1, 9), st.data())
def test_by_slot_an_id_counts_the_rows_that_lay_there(capacity, data):
    ids, rows, written = SlotIds(capacity), {}, [0] * capacity
    chosen = st.lists(st.integers(0, capacity - 1), unique=True)

    for slots in data.draw(st.lists(chosen, max_size=8)):
        lost = ids.give_up(np.array(slots, np.int64))
        assert set(lost.tolist()) == rows.keys() & set(slots)
        rows = {slot: one for slot, one in rows.items() if slot not in slots}
        assert len(ids) == len(rows)
        stored = slots[: len(slots) * 2 // 3]
        for slot, one in zip(stored, ids.assign(np.array(stored, np.int64)).tolist(), strict=True):
            assert one == written[slot] * capacity + slot
            rows[slot] = one
            written[slot] += 1

        assert len(ids) == len(rows)
        assert ids.held().tolist() == sorted(rows)
        assert ids.ids_of(ids.held()).tolist() == [rows[slot] for slot in sorted(rows)]
        everyone = range(-2, 10 * capacity)
        assert found(ids, everyone) == {one: slot for slot, one in rows.items()}


def test_slots_of_rows_go_round():
    ids = FifoIds(5)

    assert ids.slots_of(3, 8).tolist() == [3, 4, 0, 1, 2]
    assert ids.slots_of(6, 9).tolist() == [1, 2, 3]
    assert ids.slots_of(7, 7).tolist() == []


def test_nothing_is_found_of_nothing():
    assert found(FifoIds(3), []) == {}
    assert found(SlotIds(3), []) == {}


def test_a_state_of_another_capacity_is_refused():
    with pytest.raises(ShapeError, match="a state must be of 4 slots, got 3"):
        SlotIds(4).load_state_dict(SlotIds(3).state_dict())
