from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_log import JSON, PACKED, POISON, SCHEMA, filled

from fedmb.errors import CorruptLog, RecordsGone
from fedmb.ingest.assembler import MIN_SHARE, Assembler
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ledger import Position, StreamPartition

FIRST = StreamPartition("memory", "t", 0)
SAMPLE = SampleCodec(SCHEMA)


def of_samples(*partitions: list[int | None]) -> MemoryLog:
    """A log with one row in each record, of these numbers; None is poison."""
    log = MemoryLog()
    for partition, numbers in enumerate(partitions):
        with closing(log.writer("t", partition)) as writer:
            for number in numbers:
                columns = {"id": np.array([number or 0]), "x": np.full((1, 2), number or 0, np.float32)}
                writer.append(b"bad" if number is None else SAMPLE.encode(columns), codec_headers(SAMPLE))
    return log


def opened(log, partitions=(0,), sink=None) -> Assembler:
    return Assembler(log.reader("t", partitions), [PACKED, JSON], sink or CountedDeadLetters())


def drained(assembler: Assembler, limit: int = 4) -> list[list[int]]:
    """Numbers of the rows of each part that is there."""
    parts = []
    while (run := assembler.run(limit)) is not None:
        parts.append([int(number) for number in run.columns["id"]])
    return parts


def test_a_record_is_given_in_parts_and_a_part_is_of_one_record():
    assembler = opened(filled([3, 1, 6]))

    assert drained(assembler) == [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]
    assert assembler.cursor() == {FIRST: Position(3)}


def test_the_cursor_stands_behind_the_rows_given():
    assembler, found = opened(filled([3, 1, 6])), []
    while assembler.run(2) is not None:
        found.append(tuple(assembler.cursor()[FIRST]))

    assert found == [(0, 2), (1, 0), (2, 0), (2, 2), (2, 4), (3, 0)]


def test_a_record_given_in_part_keeps_its_turn():
    assembler, turns = opened(filled([4], [4], [4]), (0, 1, 2)), []
    while assembler.run(3) is not None:
        turns.append(assembler.turn)

    assert turns == [0, 1, 1, 2, 2, 0]


def test_a_log_without_records_gives_nothing_and_then_what_came():
    log = filled([])
    assembler = opened(log)
    assert assembler.run(4) is None
    assert not assembler.wait(0.0, 4)
    filled([2], log=log)

    assert assembler.wait(0.0, 4)
    assert drained(assembler) == [[0, 1]]


def test_a_sink_that_fails_leaves_the_record_in_front_of_the_cursor():
    class Full:
        def set_aside(self, record, error):
            raise OSError(28, "No space left on device")

    assembler = opened(filled([2, POISON, 2]), sink=Full())
    with pytest.raises(OSError, match="space"):
        drained(assembler)

    assert assembler.cursor() == {FIRST: Position(1)}
    assert assembler.rejected == 0


def test_a_position_behind_a_records_end_belongs_to_another_log():
    assembler = opened(filled([3, 3]))
    assembler.seek({FIRST: Position(1, 3)}, 0)

    with pytest.raises(CorruptLog, match="row 3 of 3"):
        assembler.run(1)


def test_records_of_an_unknown_codec_are_set_aside():
    log, sink = filled([2]), CountedDeadLetters()
    with closing(log.writer("t", 0)) as writer:
        writer.append(b"{}", {"fmb-codec": b"avro"})
    filled([2], log=log)

    assert drained(opened(log, sink=sink)) == [[0, 1], [0, 1]]
    assert [(name, "avro" in str(error)) for name, error in sink.last] == [("memory/t[0]@1", True)]


def test_ten_thousand_mutated_records_pass_without_a_row():
    log, draw = filled([2]), np.random.default_rng(2)
    good = PACKED.encode({"id": np.arange(3), "x": np.zeros((3, 2), np.float32)})
    with closing(log.writer("t", 0)) as writer:
        for at, mask in zip(draw.integers(0, len(good), 10_000), draw.integers(1, 256, 10_000), strict=True):
            bad = bytearray(good)
            bad[at] ^= mask
            writer.append(bytes(bad))
    filled([2], log=log)
    assembler = opened(log)

    assert drained(assembler) == [[0, 1], [0, 1]]
    assert assembler.cursor() == {FIRST: Position(10_002)}
    assert (assembler.records, assembler.rejected) == (10_002, 10_000)


def test_records_of_one_row_come_together_in_the_order_of_turns():
    log = of_samples([0, 1, 2, 3], [10, 11, 12, 13])
    assembler = Assembler(log.reader("t", [0, 1]), [SAMPLE], CountedDeadLetters())
    run = assembler.run(7)

    assert run.columns["id"].tolist() == [0, 10, 1, 11, 2, 12, 3]
    assert run.origins(assembler.partitions).partitions.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert run.origins(assembler.partitions).offsets.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert not run.origins(assembler.partitions).left.any()
    assert [tuple(position) for position in assembler.cursor().values()] == [(4, 0), (3, 0)]
    assert (assembler.turn, assembler.records) == (1, 7)


def test_a_part_of_a_packed_record_knows_its_rows_and_what_is_left():
    assembler = opened(filled([2, 6]))
    assembler.run(4)
    assembler.run(2)
    origins = assembler.run(3).origins(assembler.partitions)

    assert origins.offsets.tolist() == [1, 1, 1]
    assert (origins.rows.tolist(), origins.left.tolist()) == ([2, 3, 4], [3, 2, 1])


@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(1, 99)), max_size=12), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_rows_taken_together_are_those_taken_one_by_one(partitions, limits):
    log, sinks, found = of_samples(*partitions), (CountedDeadLetters(), CountedDeadLetters()), ([], [])
    for sink, rows, steps in zip(sinks, found, (limits, [1]), strict=True):
        assembler, number = Assembler(log.reader("t", range(len(partitions))), [SAMPLE], sink), 0
        while run := assembler.run(steps[number % len(steps)]):
            rows.extend(run.columns["id"].tolist())
            number += 1
        assert assembler.cursor() == {
            p: Position(len(n)) for p, n in zip(assembler.partitions, partitions, strict=True)
        }

    assert found[0] == found[1]
    assert [name for name, _ in sinks[0].last] == [name for name, _ in sinks[1].last]


def test_rows_that_were_not_learnt_and_are_gone_are_missed():
    class Compacted:
        """A reader whose log lost its first record."""

        def __init__(self, reader):
            self.reader, self.partitions = reader, reader.partitions

        def seek(self, partition, offset):
            self.reader.seek(partition, max(1, offset))

        def poll(self, timeout_seconds, max_records):
            return self.reader.poll(timeout_seconds, max_records)

    assembler = Assembler(Compacted(filled([3, 3]).reader("t", [0])), [PACKED, JSON], CountedDeadLetters())
    assembler.seek({FIRST: Position(0, 2)}, 0)

    with pytest.raises(RecordsGone, match="whose rows from 2 on were not learnt") as caught:
        assembler.run(4)
    assert caught.value.offset == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 64))
def test_what_is_buffered_is_bounded_by_what_is_needed_and_a_small_share_ahead(rows, size):
    assembler = opened(filled([rows] * 100))
    for _ in range(20):
        assembler.run(size)

        assert assembler.buffered_records <= max(size, MIN_SHARE)
        assert assembler.buffered_rows < rows
