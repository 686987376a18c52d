import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource

from fedmb.errors import AlreadyOwned, RecordsGone, SettingsError, Unreachable
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import open_log

PROCESS = """
import sys
from fedmb.ingest.stream_url import open_log
writer = open_log(sys.argv[1]).writer(sys.argv[2], 0)
while True:
    print(writer.append(b"%d" % writer.end_offset), flush=True)
"""


@pytest.fixture(params=["kafka-python", "confluent"])
def driver(request):
    return request.param


@pytest.fixture
def log_of(topic, driver):
    """The log of a broker, with further options."""

    def opened(broker, **options):
        query = "&".join(f"{key}={value}" for key, value in {"driver": driver, **options}.items())
        return open_log(f"kafka://{broker.address}/{topic}?{query}")

    return opened


def values(log, topic: str) -> list[bytes]:
    with closing(log.reader(topic, [0])) as reader:
        (end,) = reader.end_offsets().values()
        return [bytes(record.value) for record in records_between(reader, 0, end)]


def intrude(broker, topic: str) -> None:
    """Another program appends a record."""
    with closing(KafkaProducer(bootstrap_servers=broker.address)) as producer:
        producer.send(topic, b"other", partition=0).get(20)


def test_records_lie_where_append_said_with_value_and_headers(kafka, topic, log_of):
    log = log_of(kafka)
    headers = {"fmb-codec": b"json", "empty": b""}
    with closing(log.writer(topic, 0)) as writer:
        offsets = [writer.append(memoryview(b"%d" % number), headers) for number in range(500)]
        first = writer.append_many([b"a", b"b"], headers)
        writer.flush()
        with closing(log.reader(topic, [0])) as reader:
            records = list(records_between(reader, 0, 502))

    assert offsets == list(range(500))
    assert first == 500
    assert [record.offset for record in records] == list(range(502))
    assert [bytes(record.value) for record in records] == [b"%d" % number for number in range(500)] + [b"a", b"b"]
    assert all(dict(record.headers) == headers for record in records)


def test_the_next_writer_goes_on_at_the_end(kafka, topic, log_of):
    log = log_of(kafka)
    for expected in (0, 3, 6):
        with closing(log.writer(topic, 0)) as writer:
            assert writer.end_offset == expected
            assert writer.append_many([b"x"] * 3) == expected
            assert writer.end_offset == expected + 3


def test_another_producer_is_noticed_at_the_first_record(kafka, topic, log_of):
    log = log_of(kafka)
    with closing(log.writer(topic, 0)) as writer:
        intrude(kafka, topic)
        with pytest.raises(AlreadyOwned, match=r"our record for offset 0 lies at 1"):
            writer.append(b"ours")
        with pytest.raises(AlreadyOwned):
            writer.append(b"never sent")

    assert values(log, topic) == [b"other", b"ours"]


def test_another_producer_is_noticed_at_a_flush(kafka, topic, log_of):
    log = log_of(kafka)
    with closing(log.writer(topic, 0)) as writer:
        writer.append(b"0")
        intrude(kafka, topic)
        writer.append(b"1")
        with pytest.raises(AlreadyOwned):
            writer.flush()

    assert values(log, topic) == [b"0", b"other", b"1"]


def test_writers_that_share_a_partition_do_not_know_their_offsets(kafka, topic, log_of):
    log = log_of(kafka)
    with closing(log.writer(topic, 0, exclusive=False)) as one, closing(log.writer(topic, 0, exclusive=False)) as two:
        assert {writer.append(b"%d" % number) for number in range(20) for writer in (one, two)} == {-1}
        assert one.end_offset == -1

    assert sorted(values(log, topic)) == sorted(b"%d" % number for number in range(20) for _ in "12")


def test_a_record_that_is_too_long_is_refused_and_the_writer_goes_on(kafka, topic, log_of):
    log = log_of(kafka)
    with closing(log.writer(topic, 0)) as writer:
        writer.append(b"0")
        with pytest.raises(SettingsError, match=r"1048588 bytes that .* got 1048\d+; put fewer rows") as caught:
            writer.append(bytes(1048588 - 400))
        assert writer.append(longest := bytes(1048588 - 600)) == 1

    assert caught.value.key == "rows_per_record"
    assert values(log, topic) == [b"0", longest]


def test_nothing_follows_a_record_that_the_broker_refuses(kafka, topic, log_of):
    log = log_of(kafka)
    with closing(log.writer(topic, 0)) as writer:
        writer.append(b"0")
        with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
            admin.alter_configs([ConfigResource("topic", topic, {"max.message.bytes": "2000"})])

        def feed():
            writer.append_many(b"%d" % number if number != 7 else bytes(300_000) for number in range(1, 2000))
            writer.flush()

        with pytest.raises(SettingsError, match=r"raise max\.message\.bytes"):
            feed()
        with pytest.raises(SettingsError):
            writer.flush()

    assert values(log, topic) == [b"%d" % number for number in range(len(values(log, topic)))]


@pytest.mark.parametrize("compression", ["gzip", "lz4", "zstd"])
def test_records_are_compressed(kafka, topic, log_of, compression):
    log = log_of(kafka, compression=compression)
    with closing(log.writer(topic, 0)) as writer:
        writer.append_many([b"row %d " % number * 5000 for number in range(100)])
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
        topics = [
            one for broker in admin.describe_log_dirs() for place in broker["log_dirs"] for one in place["topics"]
        ]
    size = sum(part["partition_size"] for one in topics if one["name"] == topic for part in one["partitions"])

    assert values(log, topic) == [b"row %d " % number * 5000 for number in range(100)]
    assert 0 < size < 500_000


def test_threads_may_append(kafka, topic, log_of):
    log, offsets = log_of(kafka), []
    with closing(log.writer(topic, 0)) as writer:
        append = [lambda: offsets.extend(writer.append(b"x") for _ in range(200))] * 4
        threads = [threading.Thread(target=one) for one in append]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(offsets) == list(range(800))


def test_a_closed_writer_says_so(kafka, topic, log_of):
    writer = log_of(kafka).writer(topic, 0)
    writer.close()
    writer.close()

    with pytest.raises(ValueError, match="open another one"):
        writer.append(b"x")


def test_a_broker_that_hangs_is_waited_for_with_bounded_memory(own_kafka, topic, log_of):
    log = log_of(own_kafka, buffer_bytes=100_000, delivery_seconds=3)
    writer = log.writer(topic, 0)
    writer.append(b"0")
    own_kafka.freeze()
    began = time.monotonic()
    with pytest.raises(Unreachable, match=own_kafka.address):
        writer.append_many([bytes(1000)] * 1000)
    spent = time.monotonic() - began
    own_kafka.thaw()
    writer.close()

    assert writer.end_offset <= 100
    assert 3.0 <= spent < 3.0 + 2.5


def test_a_broker_that_is_killed_and_started_loses_and_repeats_nothing(own_kafka, topic, log_of):
    log = log_of(own_kafka, connect_seconds=30)
    restart = threading.Thread(target=own_kafka.start)
    with closing(log.writer(topic, 0)) as writer:
        for number in range(3000):
            if number == 1000:
                own_kafka.kill()
                restart.start()
            assert writer.append(b"%d" % number) == number
        writer.flush()
    restart.join()

    assert values(log, topic) == [b"%d" % number for number in range(3000)]


def test_a_topic_that_is_removed_is_told(kafka, topic, log_of):
    log = log_of(kafka, delivery_seconds=2)
    writer = log.writer(topic, 0)
    writer.append(b"0")
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
        admin.delete_topics([topic])
    writer.append(b"1")
    with pytest.raises((Unreachable, RecordsGone), match=topic):  # brokers may make a topic whenever one is asked for
        writer.flush()
    writer.close()


def test_a_killed_writer_leaves_a_first_part_of_what_it_appended(kafka, topic, log_of, driver):
    command = [sys.executable, "-c", PROCESS, f"kafka://{kafka.address}/{topic}?driver={driver}", topic]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) == 2000:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    found = values(log_of(kafka), topic)

    assert found == [b"%d" % number for number in range(len(found))]
