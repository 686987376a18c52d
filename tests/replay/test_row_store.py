"""A store gives back the rows that were written to a slot, wherever and however they lie."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import SCHEMA, random_columns, same_bits, same_columns

from fedmb.batch.minibatch import Column
from fedmb.errors import ShapeError
from fedmb.replay.row_layout import RowLayout
from fedmb.replay.row_store import HUGE_PAGE, RowStore, allocated

TRANSITION = {
    "observation": Column("float32", (17,)),
    "action": Column("float32", (6,)),
    "reward": Column("float32"),
    "next": Column("float32", (17,)),
    "done": Column("bool"),
}
LAYOUTS = ["rows", "columns"]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=["memory", "mapped", "over"])
def store(request, layout, tmp_path):
    """A store of 100 transitions."""
    if request.param == "memory":
        yield RowStore.in_memory(TRANSITION, 100, layout=layout)
    elif request.param == "mapped":
        store = RowStore.mapped(tmp_path / "store", TRANSITION, 100, layout=layout)
        yield store
        store.close()
    else:
        yield RowStore.over(bytearray(RowLayout(TRANSITION, 100, layout).num_bytes), TRANSITION, 100, layout=layout)


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def drawn(count, generator):
    return random_columns(TRANSITION, count, generator)


def write(store, slots, columns, how):
    if how == "columns":
        store.write(slots, columns)
    elif how == "block":
        block = np.zeros(len(slots), store.row_dtype)
        for name, column in columns.items():
            block[name] = column
        store.write_block(slots, block)
    else:
        for index, slot in enumerate(slots.tolist()):
            store.write_row(slot, [column[index] for column in columns.values()])


SEED = st.integers(0, 1 << 32)


@settings(deadline=None, max_examples=60)
@given(SCHEMA, st.integers(1, 12), st.sampled_from(LAYOUTS), SEED, st.data())
def test_what_is_written_is_read(tmp_path_factory, schema, capacity, layout, seed, data):
    generator = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("store") / "store"
    stores = [
        RowStore.in_memory(schema, capacity, layout=layout),
        RowStore.mapped(path, schema, capacity, layout=layout),
    ]
    expected = random_columns(schema, capacity, generator)
    for store in stores:
        store.write(slice(0, capacity), expected)
    for _ in range(5):
        slots = np.array(data.draw(st.lists(st.integers(0, capacity - 1), unique=True)), np.int64)
        fresh = random_columns(schema, len(slots), generator)
        for name in schema:
            expected[name][slots] = fresh[name]
        how = data.draw(st.sampled_from(["columns", "block", "one by one"]))
        for store in stores:
            write(store, slots, fresh, how)
    stores[1].close()
    stores[1] = RowStore.mapped(path, schema, capacity, layout=layout)

    asked = generator.integers(0, capacity, 20)
    for store in stores:
        read, block = store.read(asked), store.read_block(asked)
        assert list(read) == list(schema)
        for name in schema:
            assert same_bits(read[name], expected[name][asked])
            assert same_bits(block[name], expected[name][asked])
            assert same_bits(store.column(name)[...], expected[name])
    stores[1].close()


def test_reading_copies_in_the_order_asked(store, generator):
    store.write(slice(0, 100), drawn(100, generator))
    slots = np.array([7, 3, 3, 99])
    before = store.read(slots)

    store.read(slots)["reward"][:] = -1
    store.write(slice(0, 100), drawn(100, generator))

    assert before["reward"][1] == before["reward"][2] or np.isnan(before["reward"][1])
    assert not same_bits(before["reward"], store.read(slots)["reward"])


def test_writing_copies(store):
    row = [np.ones(17, np.float32), np.ones(6, np.float32), 1.0, np.ones(17, np.float32), True]

    store.write_row(3, row)
    row[0][:] = 9

    assert (store.read(np.array([3]))["observation"] == 1).all()


def test_of_a_slot_that_comes_twice_the_later_row_stays(store):
    rows = {name: np.zeros((3, *column.shape), column.dtype) for name, column in TRANSITION.items()}
    rows["reward"][:] = [1, 2, 3]

    store.write(np.array([5, 6, 5]), rows)

    assert store.read(np.array([5, 6]))["reward"].tolist() == [3, 2]


def test_rows_beside_written_ones_are_left_alone(store, generator):
    store.write(slice(0, 100), drawn(100, generator))
    others = np.setdiff1d(np.arange(100), np.arange(40, 60))
    before = store.read(others)

    store.write(np.arange(40, 60), drawn(20, generator))
    store.write(np.array([40, 42, 43]), drawn(3, generator))
    store.write_row(59, [column[0] for column in drawn(1, generator).values()])
    store.write_block(slice(41, 50), store.read_block(np.arange(50, 59)))

    assert same_columns(store.read(others), before)


def test_a_read_of_structs_is_one_contiguous_block():
    store = RowStore.in_memory(TRANSITION, 100, layout="rows")

    columns = store.read(np.arange(0, 50, 2))

    blocks = {id(column.base.base if column.base.base is not None else column.base) for column in columns.values()}
    assert len(blocks) == 1
    assert all(column.strides[0] == store.row_dtype.itemsize for column in columns.values())


def test_a_block_can_be_read_into_memory_that_is_there(store, generator):
    store.write(slice(0, 100), drawn(100, generator))
    slots = np.array([9, 1, 99])
    room = np.zeros(3, store.row_dtype)

    assert store.read_block(slots, room) is room
    assert room.tobytes() == store.read_block(slots).tobytes()


def test_bytes_between_fields_are_zeros(store, generator):
    store.write(slice(0, 100), drawn(100, generator))
    store.write_row(5, [column[0] for column in drawn(1, generator).values()])

    block = store.read_block(np.arange(100)).view(np.uint8).reshape(100, -1)

    assert not block[:, 165:].any()


@pytest.mark.parametrize("slot", [-101, 100])
def test_a_slot_that_is_not_there_is_refused(store, slot):
    row = [np.ones(17, np.float32), np.ones(6, np.float32), 1.0, np.ones(17, np.float32), True]

    for use in (store.read, store.read_block, lambda slots: store.write_row(int(slots[0]), row)):
        with pytest.raises(IndexError):
            use(np.array([slot]))
    with pytest.raises(IndexError):
        store.read_block(np.array([slot]), np.zeros(1, store.row_dtype))
    with pytest.raises(IndexError):
        store.write_row(-1, row)


def test_a_block_of_other_rows_is_refused(store):
    with pytest.raises(ShapeError, match="use its row_dtype"):
        store.write_block(slice(0, 2), np.zeros(2, [("x", "f4")]))


def test_a_column_is_a_live_view(store, generator):
    reward = store.column("reward")

    store.write(slice(0, 100), drawn(100, generator))

    assert reward.shape == (100,)
    assert same_bits(reward[...], store.read(np.arange(100))["reward"])


def test_a_closed_store_writes_no_row(store):
    store.close()
    store.close()

    with pytest.raises(ValueError, match="this one was closed"):
        store.write_row(0, [])


def test_memory_that_is_too_small_is_refused():
    with pytest.raises(ShapeError, match="must have 16800 bytes, got 16799"):
        RowStore.over(bytearray(16799), TRANSITION, 100)


def test_two_stores_can_share_memory(generator):
    memory = bytearray(RowLayout(TRANSITION, 10).num_bytes)
    one, other = (RowStore.over(memory, TRANSITION, 10) for _ in range(2))

    one.write(slice(0, 10), drawn(10, generator))

    assert same_columns(one.read(np.arange(10)), other.read(np.arange(10)))


@pytest.mark.parametrize("num_bytes", [1, 1000, 3 * HUGE_PAGE + 5])
def test_memory_is_zeroed_and_on_a_boundary(num_bytes):
    memory = allocated(num_bytes)

    assert len(memory) == num_bytes
    assert memory.ctypes.data % (64 if num_bytes < HUGE_PAGE else HUGE_PAGE) == 0
    assert not memory.any()


def test_memory_of_a_large_store_is_taken_as_rows_come():
    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages()
    store = RowStore.in_memory({"x": Column("uint8", (1024,))}, 1 << 21)
    store.write(slice(0, 2), {"x": np.ones((2, 1024), np.uint8)})

    assert store.num_bytes == 1 << 31
    assert (pages() - before) * resource.getpagesize() < 1 << 26
    assert store.read(np.array([1, 0]))["x"].all()
