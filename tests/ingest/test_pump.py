"""A pump hands over every row once, in order, whatever breaks and however little room there is."""

import logging
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept_rows import Flaky, KeptRows, Until
from numbered_log import JSON, PACKED, POISON, filled

from fedmb.errors import AccessDenied, CorruptLog, RecordsGone, SettingsError, Unreachable
from fedmb.ingest import pump as pump_module
from fedmb.ingest.dead_letter import CountedDeadLetters, LogDeadLetters
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.pump import Pump
from fedmb.ledger import Position, StreamPartition

FIRST = StreamPartition("memory", "t", 0)
ROWS_PER_RECORD = st.lists(st.one_of(st.integers(1, 6), st.just(POISON)), max_size=12)
CORRUPT = CorruptLog("a frame must match its checksum, got x; restore it", topic="t", partition=0, offset=2)
GONE = RecordsGone("offset 2 must be there; restore it", topic="t", partition=0, offset=2)


def wanted(partitions):
    """Numbers of all rows by partition, and how many records are poison."""
    ids = {index: list(range(1000 * index, 1000 * index + sum(filter(None, p)))) for index, p in enumerate(partitions)}
    return ids, sum(count is POISON for partition in partitions for count in partition)


def by_partition(ids):
    return {index: [one for one in ids if one // 1000 == index] for index in {one // 1000 for one in ids}}


def pumped(reader, sink, until, **options):
    options = {"dead_letters": CountedDeadLetters(), "linger_seconds": 0.0, "flush_seconds": 60.0, **options}
    pump = Pump(reader, [PACKED, JSON], sink, **options)
    pump.run(Until(until))
    return pump


def at_end(sink, log, partitions):
    """A condition: the sink's ledger is at the log's end."""
    with closing(log.reader("t", partitions)) as reader:
        ends = reader.end_offsets()
    return lambda: all(sink.ledger.position(partition) == Position(end) for partition, end in ends.items())


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS_PER_RECORD, min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 5))
def test_every_row_is_handed_over_once_in_order_whatever_the_room(partitions, commit_rows, room):
    log, names = filled(*partitions), range(len(partitions))
    with closing(log.reader("t", names)) as reader:
        sink = KeptRows(reader.partitions, room)
        end = at_end(sink, log, names)

        def done():
            if sink.free == 0:
                sink.free = room  # the sink's reader has read what there was
            return end()

        pump = pumped(reader, sink, done, commit_rows=commit_rows)

    ids, poison = wanted(partitions)
    assert by_partition(sink.ids) == {index: rows for index, rows in ids.items() if rows}
    assert pump.statistics().rows == len(sink.ids)
    assert sum(pump.statistics().rejected.values()) == poison
    assert max(sink.appends, default=0) <= min(commit_rows, room)
    assert sink.flushed == sink.ledger


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS_PER_RECORD, min_size=1, max_size=3), st.lists(st.integers(1, 5), min_size=1))
def test_a_pump_that_dies_between_two_commits_is_followed_by_one_that_misses_nothing(partitions, lives):
    log, names = filled(*partitions), range(len(partitions))
    with closing(log.reader("t", names)) as reader:
        sink = KeptRows(reader.partitions)
        end, letters = at_end(sink, log, names), CountedDeadLetters()
        for commits in lives:
            last = len(sink.done) + commits

            def is_dead(last=last):
                return end() or len(sink.done) >= last

            pumped(reader, sink, is_dead, commit_rows=2, dead_letters=letters)
        pumped(reader, sink, end, commit_rows=2, dead_letters=letters)

    ids, poison = wanted(partitions)
    assert by_partition(sink.ids) == {index: rows for index, rows in ids.items() if rows}
    assert letters.statistics().set_aside == poison


def test_over_a_log_that_is_written_already_a_new_pump_keeps_the_order_of_turns():
    log = filled([2, 3, 1, 4], [1, 1, 5, 2], [3, 3, 3, 3])
    with closing(log.reader("t", range(3))) as reader:
        whole, cut = KeptRows(reader.partitions), KeptRows(reader.partitions)
        pumped(reader, whole, at_end(whole, log, range(3)))

        for _ in range(len(whole.ids)):
            commits = len(cut.appends)
            end = at_end(cut, log, range(3))
            pumped(reader, cut, lambda commits=commits, end=end: end() or len(cut.appends) > commits, commit_rows=1)

    assert cut.ids == whole.ids


def test_without_room_nothing_is_read_and_the_wait_is_counted():
    log = filled([1] * 50)
    with closing(log.reader("t", [0])) as inner:
        reader, looks = Flaky(inner), Counter()
        sink = KeptRows(reader.partitions, room=0)

        def third_look():
            looks["all"] += 1
            return looks["all"] > 3

        pump = pumped(reader, sink, third_look)

    assert reader.polls == 0
    assert pump.statistics().stalls == 1
    assert pump.statistics().stalled_seconds > 0
    assert pump.trouble(0.5) == ""


def test_a_letter_is_safe_before_the_ledger_passes_its_record():
    log, order = filled([2, POISON, 2]), []

    class Letters(LogDeadLetters):
        def flush(self):
            super().flush()
            order.append(("letters", sink.ledger.position(FIRST)))

    with closing(log.reader("t", [0])) as reader:
        sink = KeptRows(reader.partitions)
        pumped(reader, sink, at_end(sink, log, [0]), dead_letters=Letters(MemoryLog("letters")))

    assert all(position <= Position(1) for _, position in order)
    assert order
    assert sink.ids == [0, 1, 2, 3]


class Torn(LogDeadLetters):
    """Letters to a log that goes away now and then, and takes with it what was not flushed."""

    def __init__(self, log, breaks):
        super().__init__(log)
        self.breaks, self.unsafe = breaks, []

    def set_aside(self, record, error):
        if self.breaks and self.breaks.pop(0):
            self.unsafe.clear()
            raise Unreachable("a broker must answer, got silence; start it")
        self.unsafe.append((record, error))

    def flush(self):
        if self.breaks and self.breaks.pop(0):
            self.unsafe.clear()
            raise Unreachable("a broker must answer, got silence; start it")
        while self.unsafe:
            super().set_aside(*self.unsafe.pop(0))


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS_PER_RECORD, min_size=1, max_size=3), st.lists(st.booleans(), max_size=12))
def test_a_log_of_dead_letters_that_goes_away_costs_no_letter_and_no_row(partitions, breaks):
    log, names, letters = filled(*partitions), range(len(partitions)), MemoryLog("letters")
    with closing(log.reader("t", names)) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pump_module, "RETRY_SECONDS", 0.0)
        sink = KeptRows(reader.partitions)
        pumped(reader, sink, at_end(sink, log, names), dead_letters=Torn(letters, breaks), commit_rows=3)

    ids, poison = wanted(partitions)
    assert by_partition(sink.ids) == {index: rows for index, rows in ids.items() if rows}
    with closing(letters.reader("t.dlq", names)) as reader:
        kept = [record.headers["fmb-source"] for record in reader.poll(0.0, 10_000)]
    assert len(kept) == len(set(kept)) == poison


@pytest.mark.parametrize("error", [CORRUPT, GONE, AccessDenied("a broker must let us in; mend the password")])
def test_damage_ends_it_after_everything_in_front_is_durable(error):
    log = filled([2, 2])
    with closing(log.reader("t", [0])) as inner:
        reader = Flaky(inner, error=error, after=1)
        sink = KeptRows(reader.partitions)

        with pytest.raises(type(error)) as raised:
            pumped(reader, sink, lambda: False)

    assert raised.value is error
    assert sink.ids == [0, 1, 2, 3]
    assert sink.flushed.position(FIRST) == Position(2)
    assert reader.acknowledged[-1][0] == {FIRST: 2}


def test_a_log_that_is_away_is_waited_for(caplog):
    log = filled([2, 2])
    with closing(log.reader("t", [0])) as inner:
        reader = Flaky(inner, unreachable=3)
        sink = KeptRows(reader.partitions)
        pump = pumped(reader, sink, at_end(sink, log, [0]))

    assert sink.ids == [0, 1, 2, 3]
    assert pump.statistics().outages == 1
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]  # others may show INFO too
    assert [record.msg.partition(" error")[0] for record in warned] == ["log unreachable"]


def test_monitors_are_told_what_is_durable_and_no_more():
    log = filled([2, 2, 2])
    with closing(log.reader("t", [0])) as inner:
        reader = Flaky(inner)
        sink = KeptRows(reader.partitions)
        pumped(reader, sink, at_end(sink, log, [0]), commit_rows=2, flush_seconds=1e-9, note="ring a")

    assert [offsets[FIRST] for offsets, _ in reader.acknowledged] == [1, 2, 3]
    assert {note for _, note in reader.acknowledged} == {"ring a"}
    assert "append append" not in " ".join(sink.done)


def test_a_new_sink_may_begin_behind_the_newest_record_and_does_so_once():
    log = filled([2, 2])
    with closing(log.reader("t", [0])) as reader:
        sink = KeptRows(reader.partitions)
        pumped(reader, sink, lambda: bool(sink.done), start="newest")
        filled([3], log=log)
        pumped(reader, sink, at_end(sink, log, [0]), start="newest")

    assert sink.ids == [0, 1, 2]
    assert sink.ledger.position(FIRST) == Position(3)


def test_lag_is_what_the_log_holds_beyond_the_ledger():
    log, now = filled([1] * 10), [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    with closing(log.reader("t", [0])) as reader:
        sink = KeptRows(reader.partitions, room=4)
        done = len(sink.done)
        pump = pumped(reader, sink, lambda: sink.free == 0 and pump_looked(sink, done), clock=clock, flush_seconds=0.5)

    assert pump.statistics().lag == {FIRST: 6}
    assert pump.statistics().records == 4
    assert pump.statistics().rows_per_second > 0


def pump_looked(sink, done):
    return "flush" in sink.done[done:]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"commit_rows": 0}, "commit_rows must be above 0"),
        ({"flush_seconds": -1.0}, "flush_seconds must be above 0"),
        ({"linger_seconds": float("inf")}, "linger_seconds must be 0 or more and end"),
    ],
)
def test_a_pump_that_cannot_be_is_refused(options, words):
    with closing(filled([]).reader("t", [0])) as reader, pytest.raises(SettingsError, match=words):
        Pump(reader, [PACKED], KeptRows(reader.partitions), dead_letters=CountedDeadLetters(), **options)
