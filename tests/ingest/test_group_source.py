"""Two clients of one consumer group on a real broker, which hands their partitions about while they learn."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from kafka_topics import wait_until

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, StaleUpdate
from fedmb.ingest.dead_letter import CountedDeadLetters
from fedmb.ingest.group_source import GroupSource
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import Ledger

CODEC = SampleCodec({"number": Column("int64")})
PARTITIONS, RECORDS = 4, 400


@pytest.fixture
def log(kafka, topic, request):
    driver = getattr(request, "param", "kafka-python")
    log = open_log(f"kafka://{kafka.address}/{topic}?driver={driver}&create_partitions={PARTITIONS}&group=g-{topic}")
    for partition in range(PARTITIONS):
        with closing(log.writer(topic, partition)) as writer:
            writer.append_many(CODEC.encode_rows({"number": np.arange(partition, RECORDS, PARTITIONS)}))
    return log


def member(log, topic):
    group = f"{log.id}/{topic}"
    return GroupSource(log.reader(topic, ()), group, [CODEC], dead_letters=CountedDeadLetters(), patience_seconds=5.0)


class Server:
    """A ledger, and who learnt what: all of a server that matters here."""

    def __init__(self):
        self.ledger, self.learnt, self.dropped = Ledger(), [], 0

    def round_of(self, source, size, *, keep=None):
        """One client's round; `keep` takes its update instead of sending it."""
        source.acknowledge(self.ledger, "round")
        source.seek({})
        try:
            batch = source.take(size)
        except NotEnoughData:
            return
        if keep is not None:
            keep.append(batch)
        else:
            self.admit(batch)

    def admit(self, batch):
        try:
            self.ledger = self.ledger.advanced(batch.span)
        except StaleUpdate:
            self.dropped += 1
            return
        self.learnt += batch.columns["number"].tolist()


def shared_out(server, *sources):
    """Rounds of a row until the group has given every source its partitions."""
    for _ in range(60):
        for source in sources:
            server.round_of(source, 1)
        parts = [set(source.partitions) for source in sources]
        if all(parts) and sum(map(len, parts)) == PARTITIONS == len(set.union(*parts)):
            return parts
    raise AssertionError([source.partitions for source in sources])


@pytest.mark.parametrize("log", ["kafka-python", "confluent"], indirect=True)
def test_every_row_is_learnt_once_while_members_come_and_go(log, topic):
    server, late = Server(), []
    with closing(member(log, topic)) as first:
        assert len(shared_out(server, first)[0]) == PARTITIONS
        server.round_of(first, 60, keep=late)  # a member that learns while its partitions move
        with closing(member(log, topic)) as second:
            shared_out(server, first, second)
            for _ in range(3):
                server.round_of(first, 20)
                server.round_of(second, 20)
            server.admit(late[0])
        for _ in range(RECORDS):
            server.round_of(first, 32)
            if len(server.learnt) == RECORDS:
                break

    assert sorted(server.learnt) == list(range(RECORDS))
    assert server.dropped >= 1
    assert [tuple(place) for place in server.ledger.values()] == [(RECORDS // PARTITIONS, 0)] * PARTITIONS


@pytest.mark.parametrize("log", ["kafka-python", "confluent"], indirect=True)
def test_members_that_are_opened_anew_for_every_round_keep_their_partitions(log, topic):
    server, names = Server(), ("a", "b")
    with closing(member(log.as_member("a"), topic)) as first, closing(member(log.as_member("b"), topic)) as second:
        parts = shared_out(server, first, second)
    dropped, found = server.dropped, []
    for _ in range(3):
        for name in names:
            with closing(member(log.as_member(name), topic)) as source:
                server.round_of(source, 8)
                found.append(set(source.partitions))

    assert found == 3 * parts
    assert server.dropped == dropped


def test_partitions_of_a_member_that_does_not_come_back_go_to_the_others(log, topic):
    server, soon = Server(), KafkaLog(replace(log.connection, away_seconds=6.0), id=log.id)
    with closing(member(soon.as_member("a"), topic)) as first:
        with closing(member(soon.as_member("b"), topic)) as second:
            shared_out(server, first, second)
        began = time.monotonic()

        wait_until(lambda: server.round_of(first, 1) or len(first.partitions) == PARTITIONS)

    assert time.monotonic() - began > 3.0  # the other's last heartbeat came 2 s before it was closed, at most


def test_the_ledger_decides_where_a_partition_begins_not_the_groups_offset(log, topic):
    server = Server()
    with closing(member(log, topic)) as source:
        shared_out(server, source)
        source.acknowledge(Ledger.from_json({f"{log.id}/{topic}[{n}]": [90, 0] for n in range(PARTITIONS)}), "ahead")
    with closing(member(log, topic)) as source:
        shared_out(server, source)
        for _ in range(RECORDS):
            server.round_of(source, 32)
            if len(server.learnt) == RECORDS:
                break

    assert sorted(server.learnt) == list(range(RECORDS))
    assert server.dropped == 0


def test_a_member_without_a_partition_has_nothing_to_learn(log, topic):
    server = Server()
    with closing(member(log, topic)) as first:
        shared_out(server, first)
        nobody = GroupSource(log.reader(topic, ()), "g", [CODEC], dead_letters=CountedDeadLetters())

        with pytest.raises(NotEnoughData, match="start fewer clients"):
            nobody.take(1)
        assert nobody.position() == {"ledger": {}, "group": "g"}
        with pytest.raises(ValueError, match="a group source's position"):
            nobody.seek({"cursor": 3})
        nobody.close()
