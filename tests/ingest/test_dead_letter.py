from contextlib import closing

import pytest

from fedmb.errors import AlreadyOwned, DecodeError, SettingsError
from fedmb.ingest.dead_letter import CountedDeadLetters, DeadLetterStatistics, LogDeadLetters
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log import Record
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ledger import StreamPartition

ERROR = DecodeError("columns must be x, got z")


def record(offset: int, *, partition: int = 0, topic: str = "digits", value: bytes = b"\x00poison") -> Record:
    return Record(StreamPartition("kafka-1", topic, partition), offset, 5, memoryview(value), {"fmb-codec": b"json"})


@pytest.fixture(params=["memory", "file"])
def log(request, tmp_path):
    if request.param == "memory":
        return MemoryLog()
    return FileLog.open(tmp_path, fsync=FsyncPolicy.never(), create=True)


def letters(log, partition=0):
    with closing(log.reader("digits.dlq", [partition])) as reader:
        return reader.poll(0.0)


def test_a_letter_holds_the_bytes_where_they_came_from_and_why(log):
    with closing(LogDeadLetters(log)) as sink:
        sink.set_aside(record(12, partition=3), ERROR)

    (letter,) = letters(log, partition=3)
    assert bytes(letter.value) == b"\x00poison"
    assert letter.headers == {
        "fmb-codec": b"json",
        "fmb-source": b"kafka-1/digits[3]@12",
        "fmb-error": b"DecodeError: columns must be x, got z",
    }


def test_a_record_is_set_aside_once_whoever_asks_and_how_often(log):
    for offsets in ([1, 2, 1], [2, 3], [1, 2, 3]):
        with closing(LogDeadLetters(log)) as sink:
            for offset in offsets:
                sink.set_aside(record(offset), ERROR)

    assert [letter.headers["fmb-source"][-1:] for letter in letters(log)] == [b"1", b"2", b"3"]


def test_counts_tell_new_letters_from_repeated_ones(log):
    with closing(LogDeadLetters(log)) as sink:
        for offset in (1, 2, 1):
            sink.set_aside(record(offset), ERROR)
        assert sink.statistics() == DeadLetterStatistics(set_aside=2, repeated=1)
    with closing(LogDeadLetters(log)) as sink:
        sink.set_aside(record(2), ERROR)
        assert sink.statistics() == DeadLetterStatistics(set_aside=0, repeated=1)


def test_many_letters_are_read_back(log):
    for _ in range(2):
        with closing(LogDeadLetters(log)) as sink:
            for offset in range(1200):
                sink.set_aside(record(offset), ERROR)

    with closing(log.reader("digits.dlq", [0])) as reader:
        assert list(reader.end_offsets().values()) == [1200]


def test_nothing_is_opened_before_the_first_letter(log):
    with closing(LogDeadLetters(log)), closing(LogDeadLetters(log)), closing(log.writer("digits.dlq", 0)):
        pass


def test_a_partition_of_letters_has_one_writer(log):
    with closing(LogDeadLetters(log)) as one, closing(LogDeadLetters(log)) as other:
        one.set_aside(record(1), ERROR)

        with pytest.raises(AlreadyOwned):
            other.set_aside(record(2), ERROR)
        other.set_aside(record(2, partition=1), ERROR)


def test_a_long_error_is_cut_and_an_unprintable_one_kept(log):
    with closing(LogDeadLetters(log)) as sink:
        sink.set_aside(record(1), DecodeError("\ud800" * 10_000))

    assert len(letters(log)[0].headers["fmb-error"]) == 500


def test_a_topic_without_room_for_the_suffix_is_named(log):
    with closing(LogDeadLetters(log)) as sink, pytest.raises(SettingsError, match="249"):
        sink.set_aside(record(1, topic="x" * 249), ERROR)


def test_counting_remembers_the_last_few_in_memory():
    sink = CountedDeadLetters(keep=2)
    for offset in (1, 2, 3, 3):
        sink.set_aside(record(offset), ERROR)

    assert [source for source, _ in sink.last] == ["kafka-1/digits[0]@2", "kafka-1/digits[0]@3"]
    assert sink.statistics() == DeadLetterStatistics(set_aside=3, repeated=1)
