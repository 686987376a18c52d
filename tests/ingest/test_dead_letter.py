import threading
from contextlib import closing, suppress

import pytest

from fedmb.errors import AlreadyOwned, DecodeError, SettingsError, TooManyRejected, Unreachable
from fedmb.ingest.dead_letter import CountedDeadLetters, DeadLetterStatistics, LogDeadLetters
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log import Record
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.reject_limit import RejectLimit
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import StreamPartition

ERROR = DecodeError("columns must be x, got z")


LIMIT = RejectLimit(reject_window=100, reject_share=0.02, reject_least=3)


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


def test_a_letter_names_the_schema_expected_beside_the_records_own(log):
    with closing(LogDeadLetters(log, schema="00ff")) as sink:
        sink.set_aside(record(1)._replace(headers={"fmb-schema": b"beef"}), ERROR)

    assert letters(log)[0].headers["fmb-expected-schema"] == b"00ff"
    assert letters(log)[0].headers["fmb-schema"] == b"beef"


@pytest.mark.parametrize(
    "make", [lambda log: CountedDeadLetters(limit=LIMIT), lambda log: LogDeadLetters(log, limit=LIMIT)]
)
def test_one_record_too_many_is_refused_and_not_kept(log, make):
    with closing(make(log)) as sink:
        sink.set_aside(record(10), ERROR)
        sink.set_aside(record(20), ERROR)
        for _ in range(2):
            with pytest.raises(TooManyRejected):
                sink.set_aside(record(30), ERROR)
        sink.set_aside(record(20), ERROR)
        sink.set_aside(record(120), ERROR)

        assert sink.statistics() == DeadLetterStatistics(set_aside=3, repeated=1)


def test_a_restarted_process_is_stopped_by_the_same_record(log):
    refused = []
    for _ in range(3):
        with closing(LogDeadLetters(log, limit=LIMIT)) as sink:
            for offset in (10, 20, 30, 40):
                try:
                    sink.set_aside(record(offset), ERROR)
                except TooManyRejected:
                    refused.append(offset)
                    break

    assert refused == [30, 30, 30]
    assert len(letters(log)) == 2


class Full(MemoryLog):
    """Its disk fills up with the second record, until there is room again."""

    has_room = False

    def writer(self, topic, partition, *, exclusive=True):
        writer, log = super().writer(topic, partition), self
        append = writer.append

        def refusing(value, headers=None):
            if writer.end_offset == 1 and not log.has_room:
                raise Unreachable("no room; wait")
            return append(value, headers)

        writer.append = refusing
        return writer


def test_a_letter_that_failed_is_written_when_it_comes_again():
    log = Full()
    sink = LogDeadLetters(log)
    sink.set_aside(record(1), ERROR)
    with pytest.raises(Unreachable):
        sink.set_aside(record(2), ERROR)
    log.has_room = True
    for offset in (1, 2):
        sink.set_aside(record(offset), ERROR)
    sink.flush()

    assert [letter.headers["fmb-source"][-1:] for letter in letters(log)] == [b"1", b"2"]
    assert sink.statistics() == DeadLetterStatistics(set_aside=2, repeated=1)


DRIVERS = ["kafka-python", "confluent"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_letters_of_a_cluster_lie_beside_their_topic_in_the_partition_they_came_from(kafka, topic, driver):
    log = open_log(f"kafka://{kafka.address}/{topic}?driver={driver}&create_partitions=3")
    log.writer(topic, 0).close()
    for _ in range(2):
        with closing(LogDeadLetters(log)) as sink:
            for offset in range(300):
                sink.set_aside(record(offset, topic=topic, partition=2), ERROR)
            sink.flush()

            with closing(log.reader(f"{topic}.dlq", [2])) as reader:
                assert list(reader.end_offsets().values()) == [300]
                assert bytes(reader.poll(20.0)[0].value) == b"\x00poison"
    assert log.partitions(f"{topic}.dlq") == (0, 1, 2)


def test_several_clients_share_a_clusters_letters(kafka, topic):
    logs = [open_log(f"kafka://{kafka.address}/{topic}?driver={driver}") for driver in DRIVERS]
    sinks = [LogDeadLetters(log) for log in logs]
    for offset in range(40):
        sinks[offset % 2].set_aside(record(offset, topic=topic), ERROR)
    for sink in sinks:
        sink.close()

    with closing(logs[0].reader(f"{topic}.dlq", [0])) as reader:
        assert list(reader.end_offsets().values()) == [40]


def test_letters_follow_a_topic_that_was_widened(kafka, topic):
    log = open_log(f"kafka://{kafka.address}/{topic}")
    with closing(LogDeadLetters(log)) as sink:
        sink.set_aside(record(1, topic=topic), ERROR)
        sink.set_aside(record(1, topic=topic, partition=4), ERROR)

    assert log.partitions(f"{topic}.dlq") == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_record_as_long_as_its_topic_takes_can_be_set_aside(kafka, topic, driver):
    log = open_log(f"kafka://{kafka.address}/{topic}?driver={driver}")
    with closing(log.writer(topic, 0)) as writer:
        writer.append(longest := bytes(1048588 - 600))
    with closing(LogDeadLetters(log)) as sink:
        sink.set_aside(record(0, topic=topic, value=longest), DecodeError("x" * 400))

    with closing(log.reader(f"{topic}.dlq", [0])) as reader:
        assert bytes(reader.poll(20.0)[0].value) == longest


def test_letters_are_safe_or_their_loss_is_told(own_kafka, topic):
    log = open_log(f"kafka://{own_kafka.address}/{topic}?delivery_seconds=1&connect_seconds=20")
    sink = LogDeadLetters(log)
    sink.set_aside(record(1, topic=topic), ERROR)
    sink.flush()
    own_kafka.kill()
    sink.set_aside(record(2, topic=topic), ERROR)
    with pytest.raises(Unreachable, match=own_kafka.address):
        sink.flush()
    restart = threading.Thread(target=own_kafka.start)
    restart.start()
    for offset in (1, 2):
        sink.set_aside(record(offset, topic=topic), ERROR)
    sink.flush()
    restart.join()

    with closing(log.reader(f"{topic}.dlq", [0])) as reader:
        assert [one.headers["fmb-source"][-1:] for one in reader.poll(20.0)] == [b"1", b"2"]
    with suppress(Unreachable):
        sink.close()
