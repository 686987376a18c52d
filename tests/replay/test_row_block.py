import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError
from fedmb.replay.row_block import WORTH_LOOKING, RowBlock
from fedmb.replay.row_store import RowStore

SCHEMA = {"x": Column("float32", (3,)), "twin": Column("float32", (3,)), "y": Column("int64"), "done": Column("bool")}


def columns(rows, seed=0):
    random = np.random.default_rng(seed)
    return {
        "x": random.random((rows, 3), np.float32),
        "twin": random.random((rows, 3), np.float32),
        "y": random.integers(0, 99, rows),
        "done": random.random(rows) < 0.5,
    }


def same(one, other):
    return list(one) == list(other) and all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("rows", [0, 1, 7, WORTH_LOOKING // 32 + 1])
def test_columns_come_back_from_a_block(rows):
    form, given = RowBlock(SCHEMA), columns(rows)

    block = form.block(given, rows)

    assert same(form.columns(block), given)
    assert block.nbytes == rows * form.row_bytes


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_drawn_rows_are_taken_as_the_block_that_they_are(layout):
    form, store = RowBlock(SCHEMA), RowStore.in_memory(SCHEMA, 50, layout=layout)
    store.write(np.arange(50), columns(50))

    for _ in range(3):
        slots = np.random.default_rng(1).integers(0, 50, 20)
        given = store.read(slots)
        block = form.drawn(given, 20)

        assert same(form.columns(block), given)
        assert np.shares_memory(block, given["x"]) == (layout == "rows")


def test_fields_that_do_not_lie_in_their_own_places_are_copied():
    form, rows = RowBlock(SCHEMA), WORTH_LOOKING // 32 + 1
    fields = form.columns(form.block(columns(rows), rows))
    swapped = {**fields, "x": fields["twin"], "twin": fields["x"]}
    expected = {name: one.copy() for name, one in swapped.items()}

    assert same(form.columns(form.block(swapped, rows)), expected)
    assert same(form.columns(form.drawn(swapped, rows)), expected)
    assert same(form.columns(form.block(fields, rows)), {name: one.copy() for name, one in fields.items()})
    assert same(
        form.columns(form.block({n: one[1:] for n, one in fields.items()}, rows - 1)),
        {name: one[1:].copy() for name, one in fields.items()},
    )


def test_padding_holds_nothing_of_the_memory_before():
    form = RowBlock(SCHEMA)

    block = form.block(columns(9), 9)

    zeros = np.zeros(9, form.dtype)
    for name in SCHEMA:
        zeros[name] = block[name]
    assert zeros.tobytes() == block.tobytes()


def test_memory_that_is_too_small_is_refused():
    form = RowBlock(SCHEMA)

    assert len(form.over(bytes(5 * form.row_bytes), 5)) == 5
    with pytest.raises(DecodeError, match="send whole rows"):
        form.over(bytes(5 * form.row_bytes - 1), 5)


def test_truth_values_that_are_none_are_refused():
    form = RowBlock(SCHEMA)
    block = form.block(columns(9), 9)
    form.check(block)
    block["done"].view(np.uint8)[4] = 2

    with pytest.raises(DecodeError, match="'done' must hold truth values"):
        form.check(block)
