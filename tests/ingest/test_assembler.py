from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_log import JSON, PACKED, POISON, filled

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptLog, SettingsError
from fedmb.ingest.assembler import Assembler
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ledger import Position, StreamPartition

FIRST = StreamPartition("memory", "t", 0)


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


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 64))
def test_what_is_buffered_is_bounded_by_what_is_needed(rows, size):
    assembler = opened(filled([rows] * 100))
    for _ in range(20):
        assembler.run(size)

        assert assembler.buffered_records <= size
        assert assembler.buffered_rows < rows


@pytest.mark.parametrize(
    ("codecs", "said"),
    [
        ([], "one or more codecs"),
        ([PACKED, PACKED], "different names"),
        ([PACKED, JsonCodec({"x": Column("int8")})], "one schema"),
    ],
)
def test_codecs_that_do_not_fit_together_are_refused(codecs, said):
    with pytest.raises(SettingsError, match=said):
        Assembler(filled([]).reader("t", [0]), codecs, CountedDeadLetters())
