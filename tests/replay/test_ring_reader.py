"""A model gets every row of the stream once, whatever happened to the ring, its writer or its reader in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_ring import PARTITIONS, Place, columns_of, feed, learnt, position, stretch

from fedmb.errors import NotEnoughData, RecordsGone
from fedmb.ledger import Ledger, Position


def test_only_what_a_seek_covers_is_released(place):
    ring, source = place.write(rows=32), place.read()
    feed(ring, [(0, 32)])
    stored = Ledger()
    for _ in range(4):
        stored = learnt(stored, source.take(8))
    assert ring.room() == 0

    half = stretch(0, Position(0), stored[PARTITIONS[0]])[15]
    source.seek(position({PARTITIONS[0]: Position((half >> 8) & 255, (half & 255) + 1)}))

    assert (ring.room(), source.statistics().room) == (16, 16)
    assert source.statistics().released == ring.statistics().released == 16
    assert len(source.take(100)) == 16


def test_a_new_process_goes_on_behind_the_checkpoint(place):
    ring = place.write()
    numbers = feed(ring, [(0, 5), (1, 5), (2, 5), (0, 5)])
    stored = learnt(Ledger(), place.read().take(9))

    for _ in range(3):  # killed without a word, again and again
        source = place.read()
        source.seek(position(stored))
        assert source.take(6).columns["y"].tolist() == numbers[9:15]
    assert ring.room() == 40 - 20 + 8


def test_going_back_to_an_older_checkpoint_gives_the_same_rows(place):
    ring, source = place.write(), place.read()
    numbers = feed(ring, [(0, 9), (1, 9)])
    source.take(12)
    source.seek(source.position())

    source.seek({})

    assert source.take(100).columns["y"].tolist() == numbers
    assert ring.room() == 40 - 18  # what is needed again is kept again


def test_a_rebuilt_ring_with_another_order_gives_what_is_missing(place, tmp_path):
    ring, source = place.write(), place.read()
    feed(ring, [(0, 6), (1, 6), (0, 6)])
    stored = learnt(Ledger(), source.take(9))
    place.path.unlink()

    rebuilt = place.write()
    feed(rebuilt, [(1, 8), (0, 1), (1, 2), (0, 9), (2, 2)])
    batch = source.take(100)

    ledger = learnt(stored, batch)
    assert ledger == rebuilt.ledger
    source.seek(position(ledger))
    assert rebuilt.room() == 40


def test_a_ring_that_catches_up_with_the_model_does_not_fill_up(place):
    stored = Ledger({PARTITIONS[0]: Position(60), PARTITIONS[1]: Position(2)})
    ring, source = place.write(rows=16), place.read()
    source.seek(position(stored))
    ledger = stored

    while ring.ledger.position(PARTITIONS[0]) < Position(80):
        feed(ring, [(0, min(7, ring.room()))])
        try:
            ledger = learnt(ledger, source.take(3))
        except NotEnoughData:
            continue
        source.seek(position(ledger))

    assert ledger[PARTITIONS[0]] > Position(60)


def test_a_model_that_needs_overwritten_rows_is_told(place):
    ring, source = place.write(rows=16), place.read()
    for _ in range(3):
        feed(ring, [(0, 16)])
        source.take(16)
        source.seek(source.position())
    before = source.position()

    for old in ({}, position({PARTITIONS[0]: Position(1, 4)})):
        with pytest.raises(
            RecordsGone, match=r"were overwritten, or the ring was begun later; go on from a newer"
        ) as e:
            source.seek(old)
        assert (e.value.topic, e.value.partition) == ("rows", 0)
    assert source.position() == before
    with pytest.raises(RecordsGone):
        place.read().take(1)


def test_a_model_behind_a_later_beginning_is_told(place):
    ring = place.write(begin={PARTITIONS[1]: Position(5)})
    feed(ring, [(1, 4), (0, 4)])

    source = place.read()
    with pytest.raises(RecordsGone, match=r"rows of log/rows\[1\] from \(5, 0\) on, and the model stands at \(0, 0\)"):
        source.take(1)
    source.seek(position({PARTITIONS[1]: Position(5)}))
    assert len(source.take(100)) == 8


def test_a_dropped_gap_lies_in_the_span_and_is_counted(place):
    ring, source = place.write(rows=16, on_full="drop_oldest"), place.read()
    numbers = feed(ring, [(0, 10)])
    first = source.take(4)
    numbers += feed(ring, [(0, 14)])

    second = source.take(100)

    assert second.columns["y"].tolist() == numbers[-len(second) :]
    assert Ledger().advanced(first.span).advanced(second.span) == ring.ledger
    assert (source.statistics().skipped, source.statistics().dropped) == (24 - 4 - len(second), 24 - len(second))
    source.seek(source.position())
    feed(ring, [(1, 16)])
    assert source.statistics().dropped == 24 - len(second)


def test_rows_over_the_rings_end_come_in_order(place):
    ring, source = place.write(rows=16), place.read()
    ledger = Ledger()
    for _ in range(9):
        feed(ring, [(0, 5), (1, 2)])
        batch = source.take(100)
        assert np.array_equal(batch.columns["x"], columns_of(batch.columns["y"].tolist())["x"])
        ledger = learnt(ledger, batch)
        source.seek(position(ledger))
    assert ledger == ring.ledger


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "feed", "take", "take", "store", "kill reader", "restart writer", "rebuild", "pass"]),
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=4),
    ),
    max_size=40,
)


def pass_over(ring, partition: int) -> None:
    """Let records without rows that follow be passed, as a pump does with what it set aside."""
    here = ring.ledger.position(PARTITIONS[partition])
    if here.row == 0 and not stretch(partition, here, Position(here.offset + 1)):
        ring.pass_over({PARTITIONS[partition]: Position(here.offset + 1)})


@settings(max_examples=120)
@given(st.integers(1, 40), STEPS)
def test_a_ring_agrees_with_a_list(tmp_path_factory, rows, steps):
    place = Place(tmp_path_factory.mktemp("ring"))
    ring, source, stored, learning = place.write(rows=rows), place.read(), Ledger(), Ledger()
    unread: list[int] = []
    for step, turns in steps:
        if step == "feed":
            for partition, count in turns:
                unread += feed(ring, [(partition, min(count, ring.room()))])
        elif step == "take":
            size = turns[0][1]
            if not unread:
                with pytest.raises(NotEnoughData):
                    source.take(size)
                continue
            batch = source.take(size)
            learning = learnt(learning, batch)
            assert batch.columns["y"].tolist() == unread[:size]
            del unread[:size]
        elif step == "store":
            stored = learning
            source.seek(position(stored))
        elif step == "kill reader":
            source, learning = place.read(), stored
            source.seek(position(stored))
            unread = source_rows(ring, stored, place)
        elif step == "restart writer":
            ring = place.write(rows=rows)
        elif step == "rebuild":
            place.path.unlink()
            # A daemon whose ring is lost begins a new one at the checkpoint of the model.
            ring, unread = place.write(rows=rows, begin=stored), []
            source, learning = place.read(), stored
            source.seek(position(stored))
        else:
            pass_over(ring, turns[0][0])
        assert ring.room() == source.statistics().room
        assert source.statistics().unread == len(unread)
    place.close()


def source_rows(ring, stored, place) -> list[int]:
    """Numbers of the rows behind a ledger, in the ring's order, read from the file itself."""
    file = ring._file
    slots = np.arange(file.last.oldest, file.last.appended) % ring.capacity
    numbers = file.columns["y"][slots].tolist()
    return [
        one
        for one in numbers
        if stored.position(PARTITIONS[one >> 40]) <= Position((one >> 8) & 0xFFFFFFFF, one & 0xFF)
    ]
