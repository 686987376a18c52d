import json
import math
import threading
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_log import JSON, PACKED, POISON, SCHEMA, Clock, Scripted, filled

from fedmb.batch.source import BatchSource
from fedmb.errors import CorruptLog, NotEnoughData, SettingsError
from fedmb.ingest.dead_letter import CountedDeadLetters, LogDeadLetters
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log_source import LogSource, LogSourceStatistics
from fedmb.ledger import Ledger, Position, Span, StreamPartition

FIRST = StreamPartition("memory", "t", 0)

ROWS_PER_RECORD = st.lists(st.one_of(st.integers(1, 6), st.just(POISON)), min_size=1, max_size=12)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def opened(log, partitions=(0,), **options) -> LogSource:
    options = {"patience_seconds": 0.0, **options}
    return LogSource(log.reader("t", partitions), [PACKED, JSON], **options)


def taken(source, sizes=(4,)) -> list:
    """Batches until the log has no more rows."""
    batches = []
    while True:
        try:
            batches.append(source.take(sizes[len(batches) % len(sizes)]))
        except NotEnoughData:
            return batches


def ids(batches) -> list[int]:
    return [int(number) for batch in batches for number in batch.columns["id"]]


def test_it_is_a_source_without_an_end():
    with closing(opened(filled([2]))) as source:
        assert isinstance(source, BatchSource)
        assert source.schema == SCHEMA
        assert source.examples_per_epoch == math.inf


def test_a_batch_says_which_rows_it_holds():
    with closing(opened(filled([3, 1, 4]))) as source:
        one, other, rest = source.take(2), source.take(4), source.take(9)

    assert [ids([batch]) for batch in (one, other, rest)] == [[0, 1], [2, 3, 4, 5], [6, 7]]
    assert one.span == {FIRST: Span(Position(0), Position(0, 2))}
    assert other.span == {FIRST: Span(Position(0, 2), Position(2, 2))}
    assert rest.span == {FIRST: Span(Position(2, 2), Position(3))}
    assert [batch.origins for batch in (one, other, rest)] == [{"stream": 2}, {"stream": 4}, {"stream": 2}]
    np.testing.assert_array_equal(other.columns["x"][:, 1], -other.columns["id"])


def test_columns_are_fresh_arrays_that_may_be_written_to():
    with closing(opened(filled([8]))) as source:
        batches = [source.take(3), source.take(5)]

    for batch in batches:
        for column in batch.columns.values():
            assert column.flags.writeable
            assert column.flags.aligned
            assert column.flags.owndata


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS_PER_RECORD, min_size=1, max_size=3), SIZES)
def test_spans_of_all_batches_are_the_whole_log_whatever_the_sizes(partitions, sizes):
    log = filled(*partitions)
    ledger, names = Ledger(), range(len(partitions))
    with closing(opened(log, names)) as source:
        batches = taken(source, sizes)
        for batch in batches:
            ledger = ledger.advanced(batch.span)
        position = source.position()
    counts = [sum(count or 0 for count in records) for records in partitions]

    for partition, total in enumerate(counts):
        assert [n % 1000 for n in ids(batches) if n // 1000 == partition] == list(range(total))
    assert len(ids(batches)) == sum(counts)
    assert all(1 <= len(batch) <= max(sizes) for batch in batches)
    for partition, records in enumerate(partitions):
        trailing = next((n for n, count in enumerate(reversed(records)) if count), len(records))
        here = ledger.position(StreamPartition("memory", "t", partition))
        assert len(records) - trailing <= here.offset <= len(records)
        assert here.row == 0
    assert Ledger.from_json(position["ledger"]) == {p: ledger.position(p) for p in source._taken}


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS_PER_RECORD, min_size=1, max_size=3), SIZES, SIZES)
def test_a_seek_to_any_position_gives_the_same_rows(partitions, sizes, others):
    log, names = filled(*partitions), range(len(partitions))
    with closing(opened(log, names)) as source, closing(opened(log, names)) as again:
        positions, batches = [source.position()], []
        while True:
            try:
                batches.append(source.take(sizes[len(batches) % len(sizes)]))
            except NotEnoughData:
                break
            positions.append(source.position())
        for step in reversed(range(len(batches))):
            again.seek(json.loads(json.dumps(positions[step])))
            assert again.position() == positions[step]
            batch = again.take(sizes[step % len(sizes)])

            assert ids([batch]) == ids([batches[step]])
            assert batch.span == batches[step].span
            assert ids([batch, *taken(again, others)]) == ids(batches[step:])


def test_a_source_follows_a_log_in_files_across_segments(tmp_path):
    log = FileLog.open(tmp_path, id="memory", fsync=FsyncPolicy.never(), segment_bytes=600, create=True)
    filled([3, 1, POISON, 7] * 10, log=log)
    with closing(opened(log)) as source, closing(opened(filled([3, 1, POISON, 7] * 10))) as reference:
        found, expected = taken(source), taken(reference)

    assert ids(found) == ids(expected) == list(range(110))
    assert [batch.span for batch in found] == [batch.span for batch in expected]


def test_a_ledger_of_many_sites_moves_only_what_this_source_reads():
    with closing(opened(filled([5]))) as source:
        source.seek({"ledger": {"elsewhere/t[0]": [9, 9], "memory/t[0]": [0, 3], "memory/u[0]": [4, 0]}})

        assert ids([source.take(9)]) == [3, 4]


def test_an_empty_position_is_the_beginning():
    with closing(opened(filled([2, 2]))) as source:
        before = source.position()
        source.take(3)
        source.seek({})

        assert source.position() == before == {"ledger": {"memory/t[0]": [0, 0]}}
        assert ids([source.take(3)]) == [0, 1, 2]


@pytest.mark.parametrize(
    "position", [{"row": 3}, {"ledger": [1]}, {"ledger": {"x": [0, 0]}}, {"ledger": {"a/b[0]": 3}}, {"turn": "0"}]
)
def test_a_position_of_another_kind_is_refused(position):
    with closing(opened(filled([2]))) as source, pytest.raises(ValueError, match=r"position|stream partition"):
        source.seek(position)


def test_poison_is_set_aside_once_however_often_it_is_read(tmp_path):
    log = filled([2, POISON, POISON, 2, POISON, 1])
    for _ in range(3):
        with closing(opened(log, dead_letters=LogDeadLetters(log))) as source:
            for _ in range(2):
                source.seek({})
                assert ids(taken(source, (3,))) == [0, 1, 2, 3, 4]
            assert source.statistics().rejected == 6
    with closing(log.reader("t.dlq", [0])) as reader:
        letters = reader.poll(0.0)

    assert [letter.headers["fmb-source"] for letter in letters] == [b"memory/t[0]@%d" % n for n in (1, 2, 4)]
    assert {letter.value for letter in letters} == {b"poison"}


def test_a_rejected_stretch_is_carried_by_the_next_span():
    log = filled([POISON, POISON])
    with closing(opened(log)) as source:
        with pytest.raises(NotEnoughData):
            source.take(3)
        assert source.position() == {"ledger": {"memory/t[0]": [0, 0]}}
        filled([2], log=log)

        assert source.take(3).span == {FIRST: Span(Position(0), Position(3))}


def test_a_silent_log_is_given_up_after_the_patience():
    clock = Clock()
    source = LogSource(Scripted(clock, [(50.0, [2])]), [PACKED], patience_seconds=30.0, clock=clock)

    with pytest.raises(NotEnoughData, match=r"memory/t\[0\] must give a row within 30.0 s"):
        source.take(3)
    assert clock.now == 30.0
    assert len(source.take(3)) == 2
    assert clock.now == 50.0 + 30.0


def test_a_batch_closes_when_it_has_lingered_since_its_first_row():
    clock = Clock()
    script = [(5.0, [2]), (5.3, [1]), (5.6, [2])]
    source = LogSource(Scripted(clock, script), [PACKED, JSON], linger_seconds=0.5, clock=clock)

    assert (ids([source.take(9)]), clock.now) == ([0, 1, 0], 5.5)
    assert len(source.take(9)) == 2


def test_a_batch_without_linger_takes_what_is_there_and_waits_for_no_more():
    with closing(opened(filled([2, 1, 3, 1] * 100), linger_seconds=0.0, patience_seconds=60.0)) as source:
        assert [len(source.take(300)) for _ in range(3)] == [300, 300, 100]


def test_rejected_records_do_not_feed_the_patience():
    clock = Clock()
    script = [(float(second), [POISON]) for second in range(1, 100)]
    source = LogSource(Scripted(clock, script), [PACKED], patience_seconds=30.0, clock=clock)

    with pytest.raises(NotEnoughData):
        source.take(1)
    assert clock.now == 30.0


def test_a_waiting_take_gets_the_row_that_comes():
    log = filled([])
    with closing(opened(log, patience_seconds=60.0)) as source:
        thread = threading.Thread(target=filled, args=([2],), kwargs={"log": log})
        thread.start()

        assert len(source.take(2)) == 2
        thread.join()


def test_rows_in_front_of_damage_are_given_and_then_the_damage_is_raised(tmp_path):
    log = FileLog.open(tmp_path, id="memory", fsync=FsyncPolicy.never(), create=True)
    filled([3, 3, 3, 3], log=log)
    (path,) = (tmp_path / "t" / "0").glob("*.log")
    data = bytearray(path.read_bytes())
    data[len(data) * 5 // 8] ^= 1
    path.write_bytes(data)
    with closing(opened(log)) as source:
        assert ids([source.take(4), source.take(4)]) == [0, 1, 2, 3, 4, 5]
        for _ in range(2):
            with pytest.raises(CorruptLog) as caught:
                source.take(4)
            assert caught.value.offset == 2
        source.seek({"ledger": {"memory/t[0]": [3, 0]}})
        assert ids([source.take(4)]) == [9, 10, 11]


@pytest.mark.parametrize("method", ["set_aside", "flush"])
def test_no_row_is_lost_when_a_take_is_interrupted(method):
    log, letters = filled([2, POISON, 2]), CountedDeadLetters()
    sound = getattr(letters, method)

    def fail_once(*record_and_error):
        setattr(letters, method, sound)
        raise KeyboardInterrupt

    setattr(letters, method, fail_once)
    with closing(opened(log, dead_letters=letters)) as source:
        with pytest.raises(KeyboardInterrupt):
            source.take(4)

        assert source.position() == {"ledger": {"memory/t[0]": [0, 0]}}
        assert ids([source.take(4)]) == [0, 1, 2, 3]


def test_lag_counts_records_between_the_rows_taken_and_the_end():
    with closing(opened(filled([4, 4, 4], [1]), (0, 1))) as source:
        names = list(source._taken)
        found = [dict(source.lag())]
        for size in (2, 3, 100):
            source.take(size)
            found.append(source.lag())

    assert [[lag[name] for name in names] for lag in found] == [[3, 1], [3, 1], [2, 0], [0, 0]]


@pytest.mark.parametrize("key", ["linger_seconds", "patience_seconds"])
def test_times_are_not_negative(key):
    with pytest.raises(SettingsError, match=key):
        opened(filled([]), **{key: -1.0})


def test_a_batch_has_a_row():
    with closing(opened(filled([2]))) as source, pytest.raises(ValueError, match="size=0"):
        source.take(0)


def test_statistics_count_what_was_read_and_given():
    log = filled([4, POISON, 4])
    with closing(log.reader("t", [0])) as reader:
        num_bytes = [len(record.value) for record in reader.poll(0.0)]
    with closing(opened(log)) as source:
        assert source.statistics() == LogSourceStatistics(0, 0, 0, 0, 0, 0)
        source.take(3)
        assert source.statistics() == LogSourceStatistics(3, 1, num_bytes[0], 0, 1, 2)
        source.take(3)
        assert source.statistics() == LogSourceStatistics(6, 3, sum(num_bytes), 1, 2, 0)
