"""Ledgers as arrays say what ledgers say, and rows may only follow one another as a stream gives them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_ring import PARTITIONS, places

from fedmb.errors import StaleUpdate
from fedmb.ledger import Ledger, Position
from fedmb.replay.stream_places import (
    Places,
    advanced,
    array_of,
    behind,
    covers,
    is_covered,
    last_of_each,
    ledger_of,
)

POSITIONS = st.builds(Position, st.integers(0, 5), st.integers(0, 5))
LEDGERS = st.dictionaries(st.sampled_from(PARTITIONS), POSITIONS).map(Ledger)
ROWS = st.lists(st.tuples(*[st.integers(0, 2), *[st.integers(0, 4)] * 3]), min_size=1, max_size=30)


def after(offset: int, row: int, left: int) -> Position:
    return Position(offset, row + 1) if left else Position(offset + 1)


def places_of(rows) -> Places:
    return Places(*np.array(rows, np.int64).T)


@given(LEDGERS)
def test_an_array_keeps_all_of_a_ledger_but_beginnings(ledger):
    kept = {partition: position for partition, position in ledger.items() if position > Position(0)}

    assert ledger_of(array_of(ledger, PARTITIONS), PARTITIONS) == Ledger(kept)


@given(LEDGERS, LEDGERS)
def test_covering_is_standing_at_or_behind(one, other):
    found = covers(array_of(one, PARTITIONS), array_of(other, PARTITIONS))

    assert found.tolist() == [one.position(partition) >= other.position(partition) for partition in PARTITIONS]


@given(LEDGERS, ROWS)
def test_a_row_is_covered_where_its_place_lies_before_the_ledger(ledger, rows):
    found = is_covered(places_of(rows).marks(), array_of(ledger, PARTITIONS))

    assert found.tolist() == [Position(o, r) < ledger.position(PARTITIONS[p]) for p, o, r, _ in rows]


@given(ROWS)
def test_the_place_behind_a_row_is_the_next_row_or_record(rows):
    assert [Position(*place) for place in behind(places_of(rows).marks()).tolist()] == [after(*row[1:]) for row in rows]


@given(ROWS)
def test_the_last_row_of_each_partition_is_found(rows):
    found, index = last_of_each(places_of(rows).marks()["partition"])

    assert dict(zip(found.tolist(), index.tolist(), strict=True)) == {row[0]: at for at, row in enumerate(rows)}


def slowly_advanced(ledger: Ledger, rows) -> Ledger | None:
    """The ledger behind rows one by one; None where one does not follow."""
    for p, offset, row, left in rows:
        due = ledger.position(PARTITIONS[p])
        if row != due.row or offset < due.offset or (offset > due.offset and row > 0):
            return None
        ledger = Ledger({**ledger, PARTITIONS[p]: after(offset, row, left)})
    return ledger


@st.composite
def streams(draw):
    """A ledger and rows that follow it in some order of the partitions, perhaps with one number changed."""
    ledger = draw(LEDGERS)
    sources = [places(index, ledger.position(partition)) for index, partition in enumerate(PARTITIONS)]
    rows = [
        row for turn in draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)) for row in islice(sources[turn], 2)
    ]
    if draw(st.booleans()):
        at, field = draw(st.integers(0, len(rows) - 1)), draw(st.integers(1, 3))
        rows[at] = (
            *rows[at][:field],
            max(0, rows[at][field] + draw(st.sampled_from([-1, 1, 2]))),
            *rows[at][field + 1 :],
        )
    return ledger, rows


@given(streams())
def test_many_rows_advance_a_ledger_as_one_by_one(stream):
    ledger, rows = stream
    expected = slowly_advanced(ledger, rows)

    if expected is None:
        with pytest.raises(StaleUpdate, match="must go on at"):
            advanced(array_of(ledger, PARTITIONS), places_of(rows), PARTITIONS)
    else:
        found = advanced(array_of(ledger, PARTITIONS), places_of(rows), PARTITIONS)
        assert found.tolist() == array_of(expected, PARTITIONS).tolist()
