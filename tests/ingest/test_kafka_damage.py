"""Records that are gone, and batches that fail their checksum, on a real broker with a real segment file."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka_broker import KafkaBroker
from kafka_topics import (
    DRIVERS,
    collected,
    fill,
    fill_compacted,
    fill_numbered,
    forget,
    make_anew,
    make_topic,
    offsets,
    places,
    polled_until,
    reader,
)

from fedmb.errors import CorruptLog, RecordsGone

BATCH = 20  # records of one batch


@pytest.fixture(scope="module")
def broker():
    """One of this module's own: it must be on this machine, for its files are damaged."""
    with KafkaBroker() as own:
        yield own


def flip_a_bit(broker: KafkaBroker, topic: str, value: bytes, partition: int = 0) -> None:
    segment = broker.data / f"{topic}-{partition}" / f"{0:020}.log"
    content = bytearray(segment.read_bytes())
    content[content.index(value)] ^= 1
    with segment.open("r+b") as file:  # the broker's own handle sees the same pages
        file.write(content)


def fill_batches(broker: KafkaBroker, topic: str, batches: int, partitions: int = 2) -> None:
    make_topic(broker.address, topic, partitions=partitions)
    for batch in range(batches):
        fill(broker.address, topic, [b"%02d-%02d" % (batch, number) for number in range(BATCH)])
    for partition in range(1, partitions):
        fill(broker.address, topic, [b"of another partition"] * BATCH, partition=partition)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_corrupt_batch_stops_the_reader_behind_the_records_in_front_of_it(broker, topic, driver):
    fill_batches(broker, topic, batches=4)
    flip_a_bit(broker, topic, b"02-07")
    with closing(reader(broker.address, topic, [0, 1], driver=driver)) as source:
        records, error = polled_until(source, CorruptLog)
        first = error.offset

        assert offsets(records) == list(range(first))
        assert BATCH < first <= 2 * BATCH + 7  # a producer may send the first record of a batch alone
        assert (error.topic, error.partition) == (topic, 0)
        assert "on_corrupt=skip" in str(error)
        assert source.statistics().reconnects == 2  # looked at twice
        with pytest.raises(CorruptLog):
            source.poll(0.0)
        source.seek(source.partitions[0], first)
        with pytest.raises(CorruptLog):
            source.poll(1.0, 1)
        source.seek(source.partitions[0], 3 * BATCH)
        assert set(range(3 * BATCH, 4 * BATCH)) <= set(offsets(collected(source, BATCH)))


@pytest.mark.parametrize("driver", DRIVERS)
def test_corrupt_batches_are_passed_to_the_next_readable_record_where_told_to(broker, topic, driver):
    fill_batches(broker, topic, batches=5)
    for value in (b"01-10", b"02-05", b"04-15"):  # two that follow each other, and the last one
        flip_a_bit(broker, topic, value)
    with closing(reader(broker.address, topic, [0, 1], driver=driver, on_corrupt="skip")) as source:
        records, empty = [], 0
        while empty < 3:
            polled = source.poll(0.5)
            records += polled
            empty = 0 if polled else empty + 1
        values = {record.value for record in records if record.partition.partition == 0}

        # Whole batches are passed, and nothing else is: those of 0 and 3, and what was sent apart from the bad ones.
        assert {b"%02d-%02d" % (batch, number) for batch in (0, 3) for number in range(BATCH)} <= values
        assert not values & {b"01-10", b"02-05", b"04-15"}
        assert len(offsets(records, 1)) == BATCH
        assert source.statistics().corrupt_batches == 3
        fill(broker.address, topic, [b"after"])
        assert collected(source, 1)[0].value == b"after"


@pytest.mark.parametrize("driver", DRIVERS)
def test_records_that_retention_took_stop_the_reader_and_are_named(broker, topic, driver):
    fill_numbered(broker.address, topic, partitions=2, count=50)
    forget(broker.address, topic, 30)
    with closing(reader(broker.address, topic, [0, 1], driver=driver)) as source:
        assert list(source.begin_offsets().values()) == [30, 0]
        source.seek(source.partitions[0], 10)
        _, error = polled_until(source, RecordsGone)

        assert (error.topic, error.partition, error.offset) == (topic, 0, 10)
        assert "retention passed it" in str(error)
        source.seek(source.partitions[0], 30)
        source.seek(source.partitions[1], 0)
        records = collected(source, 70)
        assert (offsets(records, 0), offsets(records, 1)) == (list(range(30, 50)), list(range(50)))


@pytest.mark.parametrize("driver", DRIVERS)
def test_records_that_retention_took_are_passed_where_told_to(broker, topic, driver):
    fill_numbered(broker.address, topic, partitions=2, count=50)
    with closing(reader(broker.address, topic, [0, 1], driver=driver, on_gap="skip")) as source:
        forget(broker.address, topic, 30)
        records = collected(source, 70)

        assert (offsets(records, 0), offsets(records, 1)) == (list(range(30, 50)), list(range(50)))
        assert source.statistics().gaps == 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_records_that_retention_took_from_under_a_slow_reader_are_noticed(broker, topic, driver):
    fill_numbered(broker.address, topic, partitions=1, count=400, size=1000)
    with closing(reader(broker.address, topic, [0], driver=driver, fetch_bytes=20_000)) as source:
        records = source.poll(1.0, 5)
        forget(broker.address, topic, 390)
        more, error = polled_until(source, RecordsGone, 5)
        records += more

    assert error.offset == len(records)
    assert offsets(records) == list(range(len(records)))  # what was fetched before is given, without a gap
    assert len(records) < 390


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_topic_made_anew_is_not_mistaken_for_the_one_that_the_ledger_knows(broker, topic, driver):
    fill_numbered(broker.address, topic, partitions=1, count=50)
    with closing(reader(broker.address, topic, [0], driver=driver)) as source:
        collected(source, 50)
        make_anew(broker.address, topic)
        fill(broker.address, topic, [b"new"] * 3)
        records, error = polled_until(source, RecordsGone)

        assert (records, error.offset) == ([], 50)
        assert "made anew" in str(error)
        source.seek(source.partitions[0], 0)
        assert places(collected(source, 3)) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_topic_made_anew_is_read_from_its_beginning_where_told_to(broker, topic, driver):
    fill_numbered(broker.address, topic, partitions=1, count=50)
    make_anew(broker.address, topic)
    fill(broker.address, topic, [b"new"] * 3)
    with closing(reader(broker.address, topic, [0], driver=driver, on_gap="skip")) as source:
        source.seek(source.partitions[0], 50)

        assert offsets(collected(source, 3)) == [0, 1, 2]
        assert source.statistics().gaps == 1


def test_records_compacted_away_leave_gaps_that_hang_nothing(topic):
    with KafkaBroker(settings={"log.cleaner.backoff.ms": "100"}) as own:
        fill_compacted(own.address, topic, 60)
        for driver in DRIVERS:
            with closing(reader(own.address, topic, [0], driver=driver)) as source:
                records = [record for _ in range(5) for record in source.poll(0.0)]
                (end,) = source.end_offsets().values()
            found = offsets(records)

            assert found == sorted(set(found))
            assert found[0] > 0
            assert found[-1] == end - 1
            assert {b"55", b"56", b"57", b"58", b"59"} <= {record.value for record in records}
