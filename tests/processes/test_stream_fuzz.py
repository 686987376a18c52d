"""Broken records among good ones: none stops the daemon, none is learnt, each is set aside once.

The topics have 10,000 broken ones together and a tenth as many good ones; FEDMB_FUZZ=100000 is `make soak`'s. Each is
read with one of the libraries, and has records of one codec that needs its producer's schema beside the others.
"""

import os
import random
import signal
from contextlib import closing

import numpy as np
import pytest
from kafka import KafkaProducer
from mutated_records import CODECS, MANY, features, good, mutated
from programs import Program, until
from schema_messages import WRITER, codec_with_file
from stream_daemon import daemon, figures

from fedmb.errors import NotEnoughData
from fedmb.exit_codes import ExitCode
from fedmb.ingest.dead_letter import ERROR_HEADER, source_of
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import open_log
from fedmb.replay.ring_source import RingSource

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

BROKEN = int(os.environ.get("FEDMB_FUZZ", "10000")) // 2  # in each of two topics
GOOD = BROKEN // 10
PARTITIONS = 2


def filled(url, topic, chance, codecs):
    """Values of the broken records by place in the topic, and how many rows the good ones have."""
    with closing(open_log(url).writer(topic, 0)):
        pass  # makes the topic
    number, sent = 0, []
    kinds = [True] * GOOD + [False] * BROKEN
    chance.shuffle(kinds)
    with closing(KafkaProducer(bootstrap_servers=url.split("/")[2], acks="all", linger_ms=20)) as producer:
        for is_good in kinds:
            codec, partition = chance.choice(codecs), chance.randrange(PARTITIONS)
            record = good(codec, number)
            if is_good:
                number += MANY.get(codec.name, 1)
            else:
                record = mutated(record, chance)
            headers = list(record.headers.items())
            sent.append((producer.send(topic, record.value, headers=headers, partition=partition), record, is_good))
        producer.flush()
        broken = {}
        for future, record, is_good in sent:
            if not is_good:
                place = future.get(60)
                broken[place.partition, place.offset] = record.value
        return broken, number


def letters(address, topic):
    """Values and errors of the dead letters by the place of the record, as often as they lie there."""
    log, found = open_log(f"kafka://{address}/{topic}"), []
    for partition in log.partitions(f"{topic}.dlq"):
        with closing(log.reader(f"{topic}.dlq", [partition])) as reader:
            (name,) = reader.partitions
            for letter in records_between(reader, 0, reader.end_offsets()[name]):
                source, offset = source_of(letter)
                assert source == f"{name.log}/{topic}[{partition}]"
                found.append(((partition, offset), bytes(letter.value), letter.headers[ERROR_HEADER]))
    return found


def rows_in(ring, schema):
    """Numbers and features of all rows in a ring, in order of their numbers."""
    parts = []
    with closing(RingSource(ring, schema, linger_seconds=0.0, patience_seconds=0.0)) as source:
        while True:
            try:
                parts.append(source.take(1 << 16).columns)
            except NotEnoughData:
                break
    columns = {name: np.concatenate([part[name] for part in parts]) for name in schema}
    order = np.argsort(columns["number"], kind="stable")
    return columns["number"][order], columns["x"][order]


@pytest.mark.parametrize(("driver", "schema_codec"), [("kafka-python", "avro"), ("confluent", "protobuf")])
def test_broken_records_are_set_aside_once_and_the_good_ones_among_them_arrive(
    driver, schema_codec, kafka, topic, tmp_path, capsys
):
    seed = random.SystemRandom().randrange(1 << 32)
    with capsys.disabled():
        print(f"\n{BROKEN} broken records among {GOOD} good ones, {schema_codec} among them, {driver}, seed {seed}")
    url, (codec, schema_file) = f"kafka://{kafka.address}/{topic}", codec_with_file(schema_codec, tmp_path)
    broken, rows = filled(
        f"{url}?create_partitions={PARTITIONS}", topic, random.Random(seed), [*CODECS.values(), codec]
    )
    told = f"driver={driver}&schema_file={schema_file}&writer_id={WRITER}"
    url, ring = f"{url}?codecs=packed,json,sample,arrow,{schema_codec}&{told}", tmp_path / "rows.ring"
    room = f"max_bytes={max(1 << 20, 128 * rows)}"

    with daemon(tmp_path, url, ring, room, name="careful") as careful:
        assert careful.ended() == ExitCode.DATA, careful.log
        assert "error: at most 0.01 of 1000 records may be set aside, got 11 of " in careful.log
        assert "raise reject_share" in careful.log
    first = letters(kafka.address, topic)
    with daemon(tmp_path, url, ring, room, "rejects.reject_share=1", name="told") as told:
        until(lambda: figures(told).get("fedmb_stream_lag_records") == 0, 600, lambda: told.log[-2000:])
        found = figures(told)
        told.send(signal.SIGTERM)
        assert told.ended() == ExitCode.OK, told.log[-2000:]
    everything = letters(kafka.address, topic)
    numbers, x = rows_in(ring, CODECS["packed"].schema)

    assert 0 < len(first) <= 10 * PARTITIONS
    assert found["fedmb_stream_rejected_records_total"] == BROKEN - len(first)
    assert sorted((place, value) for place, value, _ in everything) == sorted(broken.items())
    assert {error.partition(b":")[0] for *_, error in everything} == {b"DecodeError"}
    np.testing.assert_array_equal(numbers, np.arange(rows))
    np.testing.assert_array_equal(x, features(numbers))
    assert "Traceback" not in told.log
    options = ["--schema", tmp_path / "schema.json", "--dry-run", "--ledger", tmp_path / "replayed.json"]
    with Program(tmp_path, "replay", "stream", "replay-dlq", url, *options) as replay:
        assert replay.ended() == ExitCode.OK, replay.log[-2000:]
        assert f"would replay 0 of {BROKEN} letters" in replay.output
