"""A ring is a batch source: rows in its order with their span, waits that end, and errors that say what to do."""

from __future__ import annotations

import math
import threading
import time

import pytest
from numbered_ring import PARTITIONS, SCHEMA, feed, learnt, position

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, NotEnoughData, SettingsError, ShapeError
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_source import RingSource


def test_rows_come_in_the_rings_order_with_their_span(place):
    ring, source = place.write(), place.read()
    numbers = feed(ring, [(0, 3), (1, 2), (0, 4)])

    first, second = source.take(4), source.take(100)

    assert first.columns["y"].tolist() + second.columns["y"].tolist() == numbers
    assert first.span == {
        PARTITIONS[0]: (Position(0), Position(1, 3)),  # record 0 was set aside and lies in the span
        PARTITIONS[1]: (Position(0), Position(1)),
    }
    assert learnt(learnt(Ledger(), first), second) == ring.ledger
    assert (first.origins, second.origins) == ({"stream": 4}, {"stream": 5})


def test_a_span_stops_behind_the_last_row_taken_not_behind_what_was_passed_over(place):
    ring, source = place.write(), place.read()
    feed(ring, [(1, 1)])
    ring.pass_over({PARTITIONS[0]: Position(9), PARTITIONS[1]: Position(40)})

    assert source.lag() == {PARTITIONS[0]: 9, PARTITIONS[1]: 40, PARTITIONS[2]: 0}

    batch = source.take(5)

    assert batch.span == {PARTITIONS[1]: (Position(0), Position(1))}
    assert set(source.lag().values()) == {0}  # no row waits


def test_a_log_sources_position_is_understood(place, tmp_path):
    ring, source = place.write(), place.read()
    numbers = feed(ring, [(0, 3), (1, 5)])

    source.seek({"ledger": {"log/rows[0]": [1, 3], "elsewhere/rows[0]": [70, 0]}, "turn": 1})

    assert source.position() == {"ledger": {"log/rows[0]": [1, 3]}}
    assert source.take(100).columns["y"].tolist() == numbers[3:]


def test_a_reader_may_come_before_its_ring(place):
    source = place.read()
    source.seek(position({PARTITIONS[0]: Position(1, 2)}))
    with pytest.raises(NotEnoughData, match="there is no ring"):
        source.take(3)
    assert (source.statistics().unread, source.lag()) == (0, {})

    numbers = feed(place.write(), [(0, 6)])

    assert source.take(100).columns["y"].tolist() == numbers[2:]


def test_a_waiting_reader_sees_what_a_writer_appends(place):
    source, taken = place.read(patience_seconds=60, linger_seconds=math.inf), []
    reader = threading.Thread(target=lambda: taken.append(source.take(7)))
    reader.start()

    ring = place.write()
    numbers = feed(ring, [(1, 4)]) + feed(ring, [(0, 3)])

    reader.join(60)
    assert taken[0].columns["y"].tolist() == numbers


def test_a_batch_with_rows_waits_for_more_as_long_as_it_may_linger(place):
    feed(place.write(), [(0, 3)])
    source, began = place.read(linger_seconds=0.05, patience_seconds=60), time.monotonic()

    batch = source.take(8)

    assert (len(batch), time.monotonic() - began >= 0.05) == (3, True)


def test_patience_ends(place):
    place.write()
    source, began = place.read(patience_seconds=0.05), time.monotonic()

    with pytest.raises(NotEnoughData, match=r"within 0\.05 s, got none; start the daemon"):
        source.take(8)
    assert time.monotonic() - began >= 0.05


def test_a_round_may_allow_less_patience_than_the_source_has(place):
    place.write()
    source, began = place.read(patience_seconds=math.inf), time.monotonic()

    for limits in ({"seconds": 0.05}, {"seconds": math.inf, "silence_seconds": 0.05}):
        source.limit_waiting(**limits)
        with pytest.raises(NotEnoughData):
            source.take(8)
    assert 0.1 <= time.monotonic() - began < 30


def test_waiting_costs_next_to_nothing(place):
    place.write()
    source, before = place.read(patience_seconds=1), time.thread_time()

    with pytest.raises(NotEnoughData):
        source.take(8)
    assert time.thread_time() - before < 0.2


def test_a_round_that_fills_the_ring_ends_at_once(place):
    ring, source = place.write(rows=16), place.read(linger_seconds=math.inf, patience_seconds=math.inf)
    feed(ring, [(0, 16)])

    assert len(source.take(100)) == 16
    with pytest.raises(NotEnoughData, match="full of rows that were taken since the last checkpoint; let a round"):
        source.take(1)
    source.seek(source.position())
    feed(ring, [(0, 3)])
    assert len(source.take(3)) == 3


def test_an_interrupted_take_leaves_nothing_behind(place):
    times = iter(range(5))

    def clock():
        if next(times, None) is None:
            raise KeyboardInterrupt
        return 0.0

    numbers = feed(place.write(), [(0, 8)])
    source = place.read(linger_seconds=math.inf, patience_seconds=math.inf, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        source.take(20)
    source._clock = time.monotonic

    assert source.take(3).columns["y"].tolist() == numbers[:3]


def test_damage_is_told_behind_the_rows_in_front_of_it(place):
    numbers = feed(place.write(), [(0, 20)])
    ring = place.ring
    at = ring._file.layout.columns["y"][0] + 8 * 13
    with place.path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5")
    source = place.read()

    assert source.take(20).columns["y"].tolist() == numbers[:12]
    for _ in range(2):
        with pytest.raises(CorruptRing, match="rows from 12 on fail their checksum"):
            source.take(1)


def test_a_ring_has_one_reader(place):
    place.write()
    first = place.read()

    with pytest.raises(AlreadyOwned, match="one reader of fresh rows"):
        RingSource(place.path, SCHEMA)
    first.close()
    RingSource(place.path, SCHEMA).close()


def test_other_columns_than_the_tasks_are_refused(place):
    place.write()

    with pytest.raises(ShapeError, match="must be the task's"):
        RingSource(place.path, {**SCHEMA, "y": Column("int32")})
    place.read()  # the lock was given back


@pytest.mark.parametrize("settings", [{"linger_seconds": -1}, {"patience_seconds": math.nan}])
def test_impossible_times_are_refused(tmp_path, settings):
    with pytest.raises(SettingsError, match="0 or more"):
        RingSource(tmp_path / "ring", SCHEMA, **settings)


def test_a_closed_source_says_so(place):
    place.write()
    source = place.read()
    source.close()

    for use in (lambda: source.take(1), lambda: source.seek({}), source.statistics):
        with pytest.raises(ValueError, match="this one was closed"):
            use()
