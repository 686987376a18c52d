from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.turns import Turns

COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=4)


def filled(counts: list[int]) -> MemoryLog:
    log = MemoryLog()
    for partition, count in enumerate(counts):
        with closing(log.writer("t", partition)) as writer:
            writer.append_many([b"x"] * count)
    return log


def rest(turns: Turns, shares: list[int]) -> list[tuple[int, int]]:
    found, number = [], 0
    while records := turns.take(1 + number % 5, shares[number % len(shares)]):
        found += [(record.partition.partition, record.offset) for record in records]
        number += 1
    return found


@given(COUNTS, st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_partitions_take_turns_whatever_is_fetched_together(counts, shares):
    reader = filled(counts).reader("t", range(len(counts)))

    expected = [(p, offset) for offset in range(20) for p in range(len(counts)) if offset < counts[p]]
    assert rest(Turns(reader), shares) == expected


@given(COUNTS, st.integers(0, 60), st.integers(1, 7))
def test_offsets_and_turn_are_the_whole_state(counts, taken, share):
    log = filled(counts)
    one = Turns(log.reader("t", range(len(counts))))
    offsets = dict.fromkeys(one.partitions, 0)
    for _ in range(taken):
        for record in one.take(1, 3):
            offsets[record.partition] = record.offset + 1
    other = Turns(log.reader("t", range(len(counts))))
    other.seek(offsets, one.turn)

    assert rest(other, [share]) == rest(one, [3])


def test_a_slow_partition_does_not_let_another_ones_queue_grow():
    log = filled([0, 5000])
    slow = log.writer("t", 0)
    turns, longest = Turns(log.reader("t", [0, 1])), 0

    for number in range(400):
        slow.append(b"%d" % number)
        for _ in range(2):
            assert turns.take(1, 8)
        longest = max(longest, len(turns))

    assert longest <= 3 * 2 * 8


def test_a_partition_that_was_silent_is_heard_again():
    log = filled([0, 3])
    turns = Turns(log.reader("t", [0, 1]))
    assert rest(turns, [1]) == [(1, 0), (1, 1), (1, 2)]
    with closing(log.writer("t", 0)) as writer:
        writer.append(b"late")

    turns.poll(1.0, 1)
    assert rest(turns, [1]) == [(0, 0)]


def test_values_are_copied_because_views_end_with_the_next_poll():
    log = MemoryLog()
    buffer = bytearray(b"abc")

    class Reused:
        """A reader whose views are overwritten at every poll, as the protocol allows."""

        def __init__(self) -> None:
            self.reader = log.reader("t", [0])
            self.partitions = self.reader.partitions

        def poll(self, timeout_seconds, max_records):
            buffer[:] = b"???"
            records = self.reader.poll(timeout_seconds, 1)
            buffer[:] = records[0].value if records else b"---"
            return [record._replace(value=memoryview(buffer)) for record in records]

    with closing(log.writer("t", 0)) as writer:
        writer.append_many([b"abc", b"def"])
    turns = Turns(Reused())
    turns.poll(0.0, 1)
    turns.poll(0.0, 1)

    assert [record.value for record in turns.take(2, 1)] == [b"abc", b"def"]


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_turn_decides_who_begins(turn):
    turns = Turns(filled([2, 2, 2]).reader("t", [0, 1, 2]))
    turns.seek(dict.fromkeys(turns.partitions, 0), turn)

    assert [record.partition.partition for record in turns.take(3, 2)[:3]] == [(turn + step) % 3 for step in range(3)]
