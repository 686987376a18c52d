"""A ring with ragged columns keeps the newest rows for which it has slots and elements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import SCHEMA, random_columns, same_columns

from fedmb.batch.collate import Ragged
from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.ragged import RaggedColumn
from fedmb.replay.ring import Ring
from fedmb.replay.ring_rows import RingLayout

TEXTS = {"tokens": RaggedColumn("int32", 20), "label": Column("int64"), "boxes": RaggedColumn("float32", 9, (4,))}


def texts(numbers, lengths):
    """Rows whose content follows from their number and their two lengths."""
    return {
        "tokens": Ragged.of(
            [np.full(one, number, np.int32) for number, (one, _) in zip(numbers, lengths, strict=True)]
        ),
        "label": np.array(numbers, np.int64),
        "boxes": Ragged.of(
            [np.full((two, 4), number, np.float32) for number, (_, two) in zip(numbers, lengths, strict=True)]
        ),
    }


def as_lists(columns):
    """Every row of gathered columns as (number, tokens, boxes)."""
    rows = []
    for index, label in enumerate(columns["label"].tolist()):
        parts = []
        for name in ("tokens", "boxes"):
            start, stop = columns[name].offsets[index : index + 2]
            parts.append(columns[name].values[start:stop].tolist())
        rows.append((label, *parts))
    return rows


def expected(number, one, two):
    return number, [number] * one, [[number] * 4] * two


LENGTHS = st.tuples(st.integers(0, 20), st.integers(0, 9))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "row", "rewind", "reopen"]), st.lists(LENGTHS, max_size=9)
    ),
    max_size=12,
)


class Model:
    """Every row's lengths by number, and from where on there is room for all."""

    def __init__(self, capacity):
        self.capacity, self.rows, self.oldest = capacity, [], 0

    def append(self, lengths):
        self.rows += lengths
        while True:
            kept = self.rows[self.oldest :]
            if len(kept) <= self.capacity and sum(a for a, _ in kept) <= 20 and sum(b for _, b in kept) <= 9:
                return
            self.oldest += 1

    def rewind(self, appended):
        self.oldest = min(self.oldest, appended)
        del self.rows[appended:]

    def content(self):
        return [expected(number, *self.rows[number]) for number in range(self.oldest, len(self.rows))]


def put_one_by_one(rings, model, lengths):
    for one, two in lengths:
        number = len(model.rows)
        model.append([(one, two)])
        for ring in rings:
            assert ring.append_row([np.full(one, number), number, np.full((two, 4), number)]) == number


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 8), st.sampled_from(["rows", "columns"]), STEPS)
def test_a_ring_of_texts_agrees_with_a_list(tmp_path_factory, capacity, layout, steps):
    path = tmp_path_factory.mktemp("ring") / "ring"
    rings = [Ring.mapped(path, TEXTS, capacity, layout=layout), Ring.in_memory(TEXTS, capacity, layout=layout)]
    model = Model(capacity)
    for step, lengths in steps:
        first = len(model.rows)
        if step == "reopen":
            rings[0].close()
            rings[0] = Ring.mapped(path, TEXTS, capacity)
        elif step == "rewind":
            model.rewind(first - min(first, len(lengths)))
            for ring in rings:
                ring.rewind(len(model.rows))
        elif step == "append" and lengths:
            model.append(lengths)
            for ring in rings:
                assert ring.append(texts(range(first, len(model.rows)), lengths)) == range(first, len(model.rows))
        elif step == "row":
            put_one_by_one(rings, model, lengths)
        for ring in rings:
            assert ring.kept == range(model.oldest, len(model.rows))
            assert as_lists(ring.gather(np.array(ring.kept, np.int64))) == model.content()
    rings[0].close()


def test_gathered_texts_are_copies_in_the_order_asked():
    ring = Ring.in_memory(TEXTS, 5)
    ring.append(texts(range(3), [(2, 0), (0, 1), (3, 2)]))

    gathered = ring.gather(np.array([2, 0, 0]))
    gathered["tokens"].values[:] = -1

    assert list(gathered) == list(TEXTS)
    assert as_lists(ring.gather(np.array([2, 0, 0]))) == [expected(2, 3, 2), expected(0, 2, 0), expected(0, 2, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((2, 3), np.int32)}, "ragged rows"),
        ({"label": np.zeros(3, np.int64)}, "equal length"),
        ({"label": np.zeros(2, np.int32)}, "'label' must hold int64"),
        ({"tokens": Ragged.of([np.zeros(21, np.int32)] * 2)}, "at most the 20 elements"),
        ({"more": np.zeros(2)}, "columns must be"),
    ],
)
def test_texts_that_break_the_schema_append_nothing(change, message):
    ring = Ring.in_memory(TEXTS, 5)

    with pytest.raises(ShapeError, match=message):
        ring.append({**texts(range(2), [(1, 1), (2, 2)]), **change})
    with pytest.raises(ShapeError):
        ring.append_row([np.zeros(2, np.int32), 1])
    assert ring.appended == 0


def test_names_of_the_rings_own_columns_are_refused():
    with pytest.raises(SettingsError, match="tokens:start"):
        RingLayout({**TEXTS, "tokens:start": Column("int8")}, 5)


def test_a_description_gives_the_layout_back():
    layout = RingLayout(TEXTS, 5, "columns")

    again = RingLayout.described(layout.description())

    assert again.schema == layout.schema
    assert {name: column.max_items for name, column in again.ragged.items()} == {"tokens": 20, "boxes": 9}
    assert again.description() == layout.description()
    assert again.num_bytes == layout.num_bytes


def test_other_room_for_elements_than_the_files_is_refused(tmp_path):
    Ring.mapped(tmp_path / "ring", TEXTS, 5).close()

    with pytest.raises(SettingsError, match="ragged"):
        Ring.mapped(tmp_path / "ring", {**TEXTS, "tokens": RaggedColumn("int32", 21)}, 5)


@settings(deadline=None, max_examples=60)
@given(
    SCHEMA,
    st.integers(1, 9),
    st.sampled_from(["rows", "columns"]),
    st.integers(0, 1 << 32),
    st.lists(st.integers(0, 12)),
)
def test_rows_of_any_schema_come_back(tmp_path_factory, schema, capacity, layout, seed, counts):
    path, generator = tmp_path_factory.mktemp("ring") / "ring", np.random.default_rng(seed)
    mapped, plain = Ring.mapped(path, schema, capacity, layout=layout), Ring.in_memory(schema, capacity, layout=layout)
    every = {name: column[:0] for name, column in random_columns(schema, 1, generator).items()}
    for count in counts:
        fresh = random_columns(schema, count, generator)
        for ring in (mapped, plain):
            if count == 1:
                ring.append_row([column[0] for column in fresh.values()])
            else:
                ring.append(fresh)
        every = {name: np.concatenate([every[name], fresh[name]]) for name in schema}
    mapped.close()
    mapped = Ring.mapped(path, schema, capacity)

    numbers = np.arange(max(0, sum(counts) - capacity), sum(counts))
    for ring in (mapped, plain):
        assert ring.kept == range(max(0, sum(counts) - capacity), sum(counts))
        assert same_columns(ring.gather(numbers), {name: column[numbers] for name, column in every.items()})
    mapped.close()
