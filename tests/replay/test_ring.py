"""A ring keeps the newest rows under numbers that never change their meaning."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.ring import Ring

SCHEMA = {"x": Column("float32", (2,)), "y": Column("int64")}


def rows(first: int, stop: int, salt: int = 0) -> dict[str, np.ndarray]:
    """Rows whose content follows from their number and `salt`."""
    numbers = np.arange(first, stop)
    return {"x": np.stack([numbers, numbers + salt], 1).astype(np.float32), "y": numbers * 1000 + salt}


@pytest.fixture(params=["memory", "file"])
def make_ring(request, tmp_path):
    def make(capacity: int, schema=SCHEMA) -> Ring:
        if request.param == "memory":
            return Ring.in_memory(schema, capacity)
        made.append(tmp_path / f"ring{len(made)}")
        return Ring.mapped(made[-1], schema, capacity)

    made = []
    return make


def test_a_full_ring_keeps_the_newest_rows(make_ring):
    ring = make_ring(5)

    ids = [ring.append(rows(first, first + 3)) for first in (0, 3, 6)]

    assert ids == [range(3), range(3, 6), range(6, 9)]
    assert (ring.appended, ring.kept) == (9, range(4, 9))
    assert np.array_equal(ring.gather(np.arange(4, 9))["y"], rows(4, 9)["y"])


def test_more_rows_than_the_capacity_leave_the_last_of_them(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 2))

    assert ring.append(rows(2, 20)) == range(2, 20)
    assert ring.kept == range(15, 20)
    assert np.array_equal(ring.gather(np.arange(15, 20))["x"], rows(15, 20)["x"])


def test_gathering_answers_in_the_order_asked_and_copies(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 7))

    gathered = ring.gather(np.array([6, 3, 3, 4]))
    gathered["y"][:] = -1

    assert ring.gather(np.array([6, 3, 3, 4]))["y"].tolist() == [6000, 3000, 3000, 4000]
    assert ring.gather(np.empty(0, np.int64))["x"].shape == (0, 2)


@pytest.mark.parametrize("row_id", [-1, 1, 7])
def test_rows_that_are_not_kept_are_refused(make_ring, row_id):
    ring = make_ring(5)
    ring.append(rows(0, 7))

    with pytest.raises(NotEnoughData, match="must be kept ones, 2 to 6"):
        ring.gather(np.array([3, row_id]))


def test_columns_that_break_the_schema_append_nothing(make_ring):
    ring = make_ring(5)

    with pytest.raises(ShapeError):
        ring.append({"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(ShapeError):
        ring.append({**rows(0, 2), "y": np.zeros(3, np.int64)})
    assert ring.append(rows(0, 0)) == range(0)
    assert ring.appended == 0


class Model:
    """A ring as a list of every row by number, and which of them no slot was ever reused for."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.salts, self.kept_from = capacity, [], 0

    def append(self, count: int, salt: int) -> None:
        self.salts += [salt] * count
        self.kept_from = max(self.kept_from, len(self.salts) - self.capacity)

    def rewind(self, appended: int) -> None:
        if not self.kept_from <= appended <= len(self.salts):
            self.kept_from = appended
        self.salts = (self.salts + [0] * appended)[:appended]

    def content(self) -> list[int]:
        return [row * 1000 + self.salts[row] for row in range(self.kept_from, len(self.salts))]


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "rewind", "reopen"]), st.integers(0, 20), st.integers(0, 999)),
    max_size=20,
)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 9), STEPS)
def test_a_ring_agrees_with_a_list(tmp_path_factory, capacity, steps):
    path = tmp_path_factory.mktemp("ring") / "ring"
    mapped, plain, model = Ring.mapped(path, SCHEMA, capacity), Ring.in_memory(SCHEMA, capacity), Model(capacity)
    for step, number, salt in steps:
        if step == "reopen":
            mapped.close()
            mapped = Ring.mapped(path, SCHEMA, capacity)
        elif step == "append":
            first = len(model.salts)
            model.append(number, salt)
            for ring in (mapped, plain):
                assert ring.append(rows(first, first + number, salt)) == range(first, first + number)
        else:
            model.rewind(number)
            wanted = min(number, capacity)
            for ring in (mapped, plain):
                assert ring.rewind(number) == wanted - len(ring.kept)

        for ring in (mapped, plain):
            assert ring.kept == range(model.kept_from, len(model.salts))
            assert ring.gather(np.array(ring.kept, np.int64))["y"].tolist() == model.content()
    mapped.close()


def test_a_rewind_returns_every_row_that_was_not_overwritten(make_ring, caplog):
    ring = make_ring(10)
    ring.append(rows(0, 25))

    missing = ring.rewind(20, needed=5)
    kept = ring.kept
    ring.append(rows(20, 25))

    assert (missing, kept) == (0, range(15, 20))
    assert not caplog.records
    assert np.array_equal(ring.gather(np.arange(15, 25))["x"], rows(15, 25)["x"])


def test_a_rewind_beyond_what_is_kept_leaves_nothing_and_numbers_on(make_ring, caplog):
    ring = make_ring(10)
    ring.append(rows(0, 25))

    with caplog.at_level(logging.WARNING):
        missing = ring.rewind(12)

    assert (missing, len(ring.kept)) == (10, 0)
    assert "ring rewound appended=12 kept=0 missing=10" in caplog.text
    assert ring.append(rows(12, 14)) == range(12, 14)
    assert np.array_equal(ring.gather(np.arange(12, 14))["y"], rows(12, 14)["y"])


def test_an_empty_ring_goes_on_numbering_from_where_a_checkpoint_stood(make_ring, caplog):
    ring = make_ring(10)

    missing = ring.rewind(1000)

    assert (missing, ring.append(rows(1000, 1003))) == (10, range(1000, 1003))
    assert ring.kept == range(1000, 1003)
    assert "missing=10" in caplog.text


def test_statistics_are_a_frozen_snapshot(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 7))

    before = ring.statistics()
    ring.append(rows(7, 8))

    assert (before.capacity, before.appended, before.kept) == (5, 7, 5)
    assert before.num_bytes >= 5 * 16
    with pytest.raises(AttributeError):
        before.kept = 9


def test_statistics_say_how_rows_lie(make_ring):
    small, large = make_ring(5), make_ring(5, {"image": Column("uint8", (100, 100))})

    assert (small.statistics().layout, small.statistics().row_bytes) == ("rows", 16)
    assert (large.statistics().layout, large.statistics().row_bytes) == ("columns", 10_000)


def test_a_row_appended_alone_is_the_row_of_a_batch(make_ring):
    one, other = make_ring(5), make_ring(5)

    for first in range(12):
        batch = rows(first, first + 1)
        assert one.append_row([batch["x"][0], batch["y"][0]]) == first
        other.append(batch)

    assert one.kept == other.kept == range(7, 12)
    numbers = np.array(one.kept)
    assert all(np.array_equal(one.gather(numbers)[name], other.gather(numbers)[name]) for name in SCHEMA)


def test_a_row_that_is_refused_leaves_every_row_where_it_was(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 7))

    for wrong in ([1.0, 7], [np.zeros(2, np.float32)], [np.zeros(2, np.float32), 0.5]):
        with pytest.raises(ShapeError):
            ring.append_row(wrong)

    assert ring.kept == range(2, 7)
    assert np.array_equal(ring.gather(np.arange(2, 7))["x"], rows(2, 7)["x"])


def ledger(offset: int) -> Ledger:
    return Ledger({StreamPartition("log", "meter", 3): Position(offset, 1)})


def test_a_ledger_becomes_valid_with_its_rows(make_ring):
    ring = make_ring(5)
    assert ring.ledger == Ledger()

    ring.append(rows(0, 3), ledger=ledger(3))
    with pytest.raises(ShapeError):
        ring.append({}, ledger=ledger(4))
    assert ring.ledger == ledger(3)
    ring.append(rows(3, 4))
    ring.append_row([np.zeros(2, np.float32), 4])
    assert ring.ledger == ledger(3)
    ring.append(rows(0, 0), ledger=ledger(9))
    assert (ring.ledger, ring.appended) == (ledger(9), 5)


def test_a_rewind_forgets_a_ledger_unless_it_is_told_one(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 4), ledger=ledger(4))

    ring.rewind(4)
    assert ring.ledger == ledger(4)
    ring.rewind(3)
    assert ring.ledger == Ledger()
    ring.rewind(2, ledger=ledger(2))
    assert ring.ledger == ledger(2)


def test_a_ledger_of_too_many_partitions_is_refused_and_nothing_is_appended(make_ring):
    ring = make_ring(5)
    many = Ledger({StreamPartition("log", "meter", number): Position(number) for number in range(2000)})

    with pytest.raises(SettingsError, match="of 2000 partitions"):
        ring.append(rows(0, 2), ledger=many)
    assert (ring.appended, ring.ledger) == (0, Ledger())


def test_a_closed_ring_says_so(make_ring):
    ring = make_ring(5)
    ring.append(rows(0, 2))
    ring.close()
    ring.close()

    for use in (ring.flush, lambda: ring.append(rows(2, 3)), lambda: ring.gather(np.arange(2)), lambda: ring.rewind(0)):
        with pytest.raises(ValueError, match="this one was closed"):
            use()


@pytest.mark.parametrize(
    ("schema", "capacity"),
    [({}, 5), (SCHEMA, 0), ({"name": Column("object")}, 5), ({"name": Column("datetime64[ns]")}, 5)],
)
def test_impossible_rings_are_refused(make_ring, schema, capacity):
    with pytest.raises(SettingsError):
        make_ring(capacity, schema)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_every_numeric_dtype_comes_back(make_ring, dtype):
    ring = make_ring(4, {"x": Column(dtype, (3, 1))})
    values = np.arange(18).reshape(6, 3, 1).astype(dtype)

    ring.append({"x": values})

    assert np.array_equal(ring.gather(np.arange(2, 6))["x"], values[2:])
    assert ring.gather(np.arange(2, 6))["x"].dtype == dtype
