"""Every row is packed once, in order, whenever the packer was killed."""

import json
import threading
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_log import JSON, PACKED, POISON, filled

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.pack import PACKED_HEADER, Packer, PackStatistics, pack
from fedmb.ledger import Ledger, Position

STOP = threading.Event()
ROWS_PER_RECORD = st.lists(st.one_of(st.integers(1, 6), st.just(POISON)), max_size=14)


def packer(source, target, partition=0, **options):
    options = {"dead_letters": CountedDeadLetters(), "rows": 4, "linger_seconds": 60.0, **options}
    return Packer(source, "t", target, "packed", partition, codecs=[PACKED, JSON], codec=PACKED, **options)


def packed(target, partition=0):
    with closing(target.reader("packed", [partition])) as reader:
        return [record._replace(value=PACKED.decode(record.value)) for record in reader.poll(0.0, 10_000)]


def ids(target, partition=0):
    return [int(one) for record in packed(target, partition) for one in record.value["id"]]


def test_rows_are_packed_and_each_record_says_up_to_where_it_reaches():
    source, target = filled([1, 1, POISON, 1, 1, 3]), MemoryLog("target")

    found = pack([packer(source, target)], STOP, to_the_end=True)

    first, second = packed(target)
    (partition,) = source.reader("t", [0]).partitions
    assert found == PackStatistics(rows=7, records=2, rejected=1)
    assert [len(record.value["id"]) for record in (first, second)] == [4, 3]
    assert ids(target) == list(range(7))
    assert PACKED_HEADER in first.headers
    assert [Ledger.from_json(json.loads(record.headers[PACKED_HEADER]))[partition] for record in (first, second)] == [
        Position(5),
        Position(6),
    ]
    np.testing.assert_array_equal(first.value["x"][:, 1], -first.value["id"])


@settings(max_examples=100, deadline=None)
@given(ROWS_PER_RECORD, st.lists(st.integers(1, 4), max_size=8), st.integers(1, 5))
def test_a_packer_that_was_killed_is_followed_by_one_that_repeats_and_misses_nothing(counts, lives, rows):
    source, target, letters = filled(counts), MemoryLog("target"), CountedDeadLetters()

    for steps in lives:
        with closing(packer(source, target, rows=rows, dead_letters=letters)) as killed:
            for _ in range(steps):
                killed.step()
    pack([packer(source, target, rows=rows, dead_letters=letters)], STOP, to_the_end=True)

    assert ids(target) == list(range(sum(filter(None, counts))))
    assert letters.statistics().set_aside == counts.count(POISON)


def test_partitions_are_packed_each_into_its_own():
    source, target = filled([1] * 5, [1] * 3), MemoryLog("target")

    found = pack([packer(source, target, number) for number in (0, 1)], STOP, to_the_end=True)

    assert (found.rows, found.records) == (8, 3)
    assert (ids(target, 0), ids(target, 1)) == (list(range(5)), [1000, 1001, 1002])


def test_rows_that_waited_long_enough_are_packed_though_few():
    source, target, now = filled([1, 1]), MemoryLog("target"), [0.0]
    with closing(packer(source, target, linger_seconds=2.0, clock=lambda: now[0])) as one:
        one.step()
        one.step()
        waiting = len(packed(target))
        now[0] = 2.0
        one.step()

    assert waiting == 0
    assert ids(target) == [0, 1]


def test_what_waits_when_it_is_told_to_stop_is_packed():
    source, target, stop = filled([1, 1]), MemoryLog("target"), threading.Event()
    one = packer(source, target)
    one.step()
    stop.set()

    assert pack([one], stop) == PackStatistics(rows=len(ids(target)), records=1, rejected=0)
    assert ids(target)


def test_a_target_with_records_of_another_origin_is_refused_and_given_up():
    target = MemoryLog("target")
    with closing(target.writer("packed", 0)) as writer:
        writer.append(b"mine")

    with pytest.raises(SettingsError, match=r"must hold what was packed from memory/t\[0\] and nothing else"):
        packer(filled([1]), target)
    target.writer("packed", 0).close()


@pytest.mark.parametrize(("options", "words"), [({"rows": 0}, "1 row or more")])
def test_a_packer_that_cannot_be_is_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        packer(filled([1]), MemoryLog("target"), **options)


def test_a_topic_is_not_packed_into_itself():
    source = filled([1])

    with pytest.raises(SettingsError, match="must go to another topic"):
        Packer(source, "t", source, "t", 0, codecs=[JSON], codec=PACKED, dead_letters=CountedDeadLetters())


def test_a_second_packer_is_refused():
    source, target = filled([1]), MemoryLog("target")

    with closing(packer(source, target)), pytest.raises(AlreadyOwned):
        packer(source, target)
