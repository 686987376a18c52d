from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import FedmbError
from fedmb.ingest.kafka_driver import NO_HEADERS, Fetched
from fedmb.ingest.kafka_inbox import Inbox
from fedmb.ingest.log import Record
from fedmb.ledger import StreamPartition


def stretch(first: int, count: int, size: int = 10) -> Fetched:
    name = StreamPartition("here", "t", 0)
    records = [Record(name, first + number, 0, b"x" * size, NO_HEADERS) for number in range(count)]
    return Fetched(0, records, count * size)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_records_come_out_in_order_whatever_is_asked_for(sizes, counts):
    inbox = Inbox(0)
    for size in sizes:
        inbox.put(stretch(inbox.offset, size))
    taken = []
    for count in counts:
        part = inbox.take(count)

        assert len(part) == min(count, sum(sizes) - len(taken))
        taken += part
    assert [record.offset for record in taken] == list(range(len(taken)))
    assert inbox.num_records == sum(sizes) - len(taken)
    assert (inbox.num_bytes == 0) == (inbox.num_records == 0)


def test_a_stretch_counts_with_all_its_bytes_until_its_last_record_is_given():
    inbox = Inbox(0)
    inbox.put(stretch(0, 3))
    counted = [(len(inbox.take(1)), inbox.num_bytes) for _ in range(3)]

    assert counted == [(1, 30), (1, 30), (1, 0)]


def test_records_in_front_of_the_place_that_was_sought_are_dropped():
    inbox = Inbox(5)
    inbox.put(stretch(0, 4))
    inbox.put(stretch(3, 4))

    assert [record.offset for record in inbox.take(9)] == [5, 6]


def test_an_inbox_lacks_what_is_known_to_be_there_until_it_has_its_share_or_is_full():
    inbox = Inbox(0)
    assert not inbox.lacks(5, 100)  # nothing is known
    inbox.end = 20
    assert inbox.lacks(5, 100)
    inbox.put(stretch(0, 4))
    assert inbox.lacks(5, 100)
    assert not inbox.lacks(4, 100)
    assert not inbox.lacks(5, 40)
    inbox.failure = FedmbError("damaged")
    assert not inbox.lacks(5, 100)


def test_a_paused_inbox_is_full_until_half_of_it_is_given():
    inbox = Inbox(0)
    for first in range(0, 10, 2):
        inbox.put(stretch(first, 2))
    inbox.is_paused = inbox.is_full(100)
    full = []
    for _ in range(4):
        inbox.take(2)
        full.append(inbox.is_full(100))

    assert inbox.is_paused
    assert full == [True, True, False, False]


def test_an_inbox_is_exhausted_at_its_known_end_and_before_one_is_known():
    inbox = Inbox(3)
    assert inbox.is_exhausted()
    inbox.end = 4
    assert not inbox.is_exhausted()
    inbox.put(stretch(3, 1))
    assert not inbox.is_exhausted()
    inbox.take(1)
    assert inbox.is_exhausted()
