"""A stream ring keeps rows and the ledger behind them together, and never overwrites a row that is still needed."""

from __future__ import annotations

import numpy as np
import pytest
from numbered_ring import PARTITIONS, SCHEMA, columns_of, feed, make_ring

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, NotEnoughRoom, SettingsError, ShapeError, StaleUpdate
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_ring import StreamRing


def opened(path) -> RingSource:
    return RingSource(path, SCHEMA, linger_seconds=0, patience_seconds=0)


@pytest.fixture
def ring(tmp_path):
    with_rows = make_ring(tmp_path / "ring")
    yield with_rows
    with_rows.close()


def test_the_ledger_stands_behind_the_last_row_of_each_partition(ring):
    feed(ring, [(0, 3), (2, 6)])

    # Partition 0 has records of 0, 5, 4 ... rows, partition 2 of 2, 1, 0, 5 ...
    assert ring.ledger == Ledger({PARTITIONS[0]: Position(1, 3), PARTITIONS[2]: Position(3, 3)})


def test_what_was_passed_over_moves_the_ledger_alone(ring):
    ring.pass_over({PARTITIONS[0]: Position(1)})

    assert ring.ledger[PARTITIONS[0]] == Position(1)
    assert ring.statistics().rows == 0


def test_a_reopened_ring_goes_on_where_it_stood(tmp_path):
    ring = make_ring(tmp_path / "ring")
    feed(ring, [(1, 9), (0, 4)])
    ring.pass_over({PARTITIONS[2]: Position(7)})
    ledger = ring.ledger
    ring.close()

    again = make_ring(tmp_path / "ring")

    assert (again.ledger, again.statistics().unread) == (ledger, 13)
    feed(again, [(1, 2)])
    again.close()


@pytest.mark.parametrize(
    ("offset", "row"),
    [(1, 2), (1, 4), (0, 0), (2, 0), (-1, 3), (1, 0)],
    ids=["again", "a gap in the record", "before", "the next record too early", "negative", "the record anew"],
)
def test_a_row_that_does_not_follow_the_ledger_is_refused(ring, offset, row):
    feed(ring, [(0, 3)])  # up to row 3 of record 1, which has 5
    before = ring.ledger

    with pytest.raises(StaleUpdate, match=r"must go on at \(1, 3\)"):
        ring.append(columns_of([1]), *np.array([[0], [offset], [row], [1]]))
    assert (ring.ledger, ring.statistics().rows) == (before, 3)


def test_rows_of_one_append_that_do_not_follow_each_other_are_refused(ring):
    places = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 2], [4, 0, 2]])  # row 1 of partition 0 is missing

    with pytest.raises(StaleUpdate, match=r"rows\[0\] must go on at \(1, 1\), got one at \(1, 2\)"):
        ring.append(columns_of([0, 1, 2]), *places)
    assert not ring.statistics().rows


def test_records_may_be_missing_from_the_stream(ring):
    ring.append(columns_of([0, 1]), *np.array([[0, 0], [5, 900], [0, 0], [0, 0]]))

    assert ring.ledger[PARTITIONS[0]] == Position(901)


def test_passing_over_backwards_is_refused(ring):
    feed(ring, [(0, 8)])

    with pytest.raises(StaleUpdate, match="can be passed over"):
        ring.pass_over({PARTITIONS[0]: Position(1)})


@pytest.mark.parametrize("places", [[[3], [0], [0], [0]], [[0], [0], [0], [-1]], [[-1], [0], [0], [0]]])
def test_numbers_that_cannot_be_are_refused(ring, places):
    with pytest.raises(ValueError, match="must be 0 to"):
        ring.append(columns_of([0]), *np.array(places))


def test_each_row_needs_a_place(ring):
    with pytest.raises(ValueError, match="each of 2 rows"):
        ring.append(columns_of([0, 1]), *np.zeros((4, 1), np.int64))


def test_columns_must_be_the_schemas(ring):
    for columns in ({"y": np.zeros(1, np.int64)}, {**columns_of([1]), "y": np.zeros(1, np.int32)}):
        with pytest.raises(ShapeError):
            ring.append(columns, *np.zeros((4, 1), np.int64))


def test_an_empty_append_changes_nothing(ring):
    ring.append(columns_of([]), *np.zeros((4, 0), np.int64))

    assert ring.statistics().rows == 0


def test_unread_rows_leave_less_and_less_room(ring):
    assert ring.room() == 40
    feed(ring, [(0, 30)])
    assert ring.room() == 10

    with pytest.raises(NotEnoughRoom, match="has room for 10 rows, got 11"):
        feed(ring, [(0, 11)])
    feed(ring, [(1, 10)])
    assert ring.room() == 0


def test_what_a_reader_released_is_room_again(ring):
    feed(ring, [(0, 40)])
    source = opened(ring.path)
    source.take(25)
    assert ring.room() == 0  # taken, and not yet stored

    source.seek(source.position())

    assert ring.room() == 24  # rows come back by blocks, here of two
    source.close()
    feed(ring, [(1, ring.room())])


def test_dropping_makes_room_for_all_and_counts_what_was_unread(tmp_path):
    ring = make_ring(tmp_path / "ring", on_full="drop_oldest")
    feed(ring, [(0, 30)])
    assert (ring.room(), ring.statistics().room) == (40, 10)

    feed(ring, [(1, 35)])

    after = ring.statistics()
    assert (after.rows, after.dropped, after.unread, after.room) == (65, 26, 39, 1)  # a block has two rows here
    with pytest.raises(NotEnoughRoom, match="room for 40 rows, got 41"):
        feed(ring, [(2, 41)])
    ring.close()


def test_rows_that_were_released_are_not_dropped(tmp_path):
    ring = make_ring(tmp_path / "ring", on_full="drop_oldest")
    feed(ring, [(0, 40)])
    source = opened(ring.path)
    source.take(40)
    source.seek(source.position())
    source.close()

    feed(ring, [(0, 40)])

    assert (ring.statistics().dropped, ring.statistics().released) == (0, 40)
    ring.close()


def test_a_ring_has_one_writer(ring):
    with pytest.raises(AlreadyOwned, match=str(ring.path)):
        make_ring(ring.path)


def test_bytes_or_rows_say_how_large_it_is(tmp_path):
    by_bytes = StreamRing(tmp_path / "a", SCHEMA, PARTITIONS, max_bytes=1 << 20)

    assert by_bytes.capacity == (1 << 20) // (3 + 8 + 24)
    assert (1 << 20) - 100 < by_bytes.statistics().num_bytes < (1 << 20) + 40_000
    by_bytes.close()
    for size in ({}, {"max_bytes": 100, "max_rows": 3}, {"max_rows": 0}, {"max_bytes": 34}):
        with pytest.raises(SettingsError, match="stream ring"):
            StreamRing(tmp_path / "b", SCHEMA, PARTITIONS, **size)


@pytest.mark.parametrize(
    "settings", [{"partitions": []}, {"partitions": [PARTITIONS[0]] * 2}, {"on_full": "forget"}, {"schema": {}}]
)
def test_impossible_rings_are_refused(tmp_path, settings):
    with pytest.raises(SettingsError):
        StreamRing(tmp_path / "ring", max_rows=4, **{"schema": SCHEMA, "partitions": PARTITIONS, **settings})


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_every_numeric_dtype_comes_back(tmp_path, dtype):
    schema = {"x": Column(dtype, (3, 1)), "nothing": Column(dtype, (0,))}
    ring = StreamRing(tmp_path / "ring", schema, PARTITIONS[:1], max_rows=6)
    values = np.arange(18).reshape(6, 3, 1).astype(dtype)

    ring.append(
        {"x": values[::-1], "nothing": np.zeros((6, 0), dtype)}, *np.array([[0] * 6, range(6), [0] * 6, [0] * 6])
    )
    source = RingSource(ring.path, schema)

    batch = source.take(6)
    assert np.array_equal(batch.columns["x"], values[::-1])
    assert batch.columns["x"].dtype == dtype
    source.close()
    ring.close()


def test_a_ring_of_hundreds_of_partitions_works_like_another(tmp_path):
    many = [PARTITIONS[0]._replace(partition=index) for index in range(600)]
    ring = StreamRing(tmp_path / "ring", SCHEMA, many, max_rows=2000)
    places = np.array([(index % 600, index // 600, 0, 0) for index in np.random.default_rng(0).permutation(600)]).T
    ring.append(columns_of(list(range(600))), *places)
    ring.close()

    again, source = StreamRing(tmp_path / "ring", SCHEMA, many, max_rows=2000), opened(tmp_path / "ring")
    batch = source.take(600)

    assert set(again.ledger.values()) == {Position(1)}
    assert Ledger().advanced(batch.span) == again.ledger
    source.close()
    again.close()


def test_a_closed_ring_says_so(ring):
    ring.close()
    ring.close()

    for use in (ring.flush, ring.room, ring.statistics, lambda: feed(ring, [(0, 1)]), lambda: ring.pass_over({})):
        with pytest.raises(ValueError, match="this one was closed"):
            use()


def test_statistics_are_a_frozen_snapshot(ring):
    before = ring.statistics()

    feed(ring, [(0, 7)])

    assert (before.rows, ring.statistics().rows, ring.statistics().bytes) == (0, 7, 7 * 11)
    with pytest.raises(AttributeError):
        before.rows = 9
