"""Who reads a topic into tensors in benchmarks/kafka.py: bare clients by hand, ours, and a door to the peers."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from crc32c import crc32c

from fedmb.batch.minibatch import Column
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROWS, FEATURES = 256, 32
SCHEMA = {"x": Column("float32", (FEATURES,)), "y": Column("int64")}
CHECKSUM = struct.Struct("<I")
WARM = 0.1  # part of a topic that is read before the clock starts


@dataclass(frozen=True)
class Topic:
    """A topic that is full, and how to read it by hand."""

    name: str
    records: int
    rows_per_record: int
    row: np.dtype[Any]
    """Layout of one row of a record of its own."""

    @property
    def rows(self) -> int:
        return self.records * self.rows_per_record


@dataclass
class Clock:
    """Seconds and CPU seconds of this process since the first tenth of a topic was read."""

    topic: Topic
    rows: int = 0
    began: tuple[float, float, int] | None = None

    def saw(self, rows: int) -> bool:
        """Count rows; True while there are more to come."""
        self.rows += rows
        if self.began is None and self.rows >= WARM * self.topic.rows:
            self.began = (time.perf_counter(), time.process_time(), self.rows)
        return self.rows < self.topic.rows

    def result(self) -> dict[str, float]:
        assert self.began is not None
        seconds, cpu, rows = time.perf_counter() - self.began[0], time.process_time() - self.began[1], self.began[2]
        return {"seconds": seconds, "cpu": cpu, "rows": self.rows - rows}


@dataclass
class Tensors:
    """Where bare clients put a batch: made once, filled again and again."""

    x: torch.Tensor = field(default_factory=lambda: torch.empty(ROWS, FEATURES))
    y: torch.Tensor = field(default_factory=lambda: torch.empty(ROWS, dtype=torch.int64))

    def fill_packed(self, value: bytes, *, checked: bool) -> None:
        labels_at = len(value) - ROWS * (4 * FEATURES + 8)  # the widest column comes first
        self.y.copy_(torch.from_numpy(np.frombuffer(value, np.int64, ROWS, labels_at)))
        flat = np.frombuffer(value, np.float32, ROWS * FEATURES, labels_at + 8 * ROWS)
        if checked and not (
            crc32c(memoryview(value)[8:]) == CHECKSUM.unpack_from(value, 4)[0] and np.isfinite(flat).all()
        ):
            raise ValueError("a record is damaged")
        self.x.copy_(torch.from_numpy(flat.reshape(ROWS, FEATURES)))

    def fill_samples(self, values: list[bytes], row: np.dtype[Any]) -> None:
        rows = np.frombuffer(b"".join(values), row)
        self.x[: len(rows)].copy_(torch.from_numpy(rows["x"].copy()))
        self.y[: len(rows)].copy_(torch.from_numpy(rows["y"].copy()))


def by_hand(topic: Topic, polls: Iterable[list[bytes]], *, checked: bool = False) -> dict[str, float]:
    """Put polled values into tensors, batch by batch; `checked` looks at each packed record's checksum and numbers."""
    clock, tensors, left = Clock(topic), Tensors(), []
    for values in polls:
        if topic.rows_per_record > 1:
            for value in values:
                tensors.fill_packed(value, checked=checked)
        else:
            left += values
            while len(left) >= ROWS:
                tensors.fill_samples(left[:ROWS], topic.row)
                del left[:ROWS]
        if not clock.saw(len(values) * topic.rows_per_record):
            break
    return clock.result()


def kafka_python(address: str, topic: Topic, *, checked: bool = False) -> dict[str, float]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20)
    consumer.assign([TopicPartition(topic.name, 0)])
    consumer.seek_to_beginning()

    def polls() -> Iterator[list[bytes]]:
        while True:
            for records in consumer.poll(timeout_ms=1000, max_records=2000).values():
                yield [record.value for record in records]

    try:
        return by_hand(topic, polls(), checked=checked)
    finally:
        consumer.close()


def confluent(address: str, topic: Topic, *, checked: bool = False) -> dict[str, float]:
    from confluent_kafka import Consumer, TopicPartition

    settings = {"bootstrap.servers": address, "group.id": "bare", "enable.auto.commit": False, "check.crcs": True}
    consumer = Consumer({**settings, "max.partition.fetch.bytes": 4 << 20})
    consumer.assign([TopicPartition(topic.name, 0, 0)])

    def polls() -> Iterator[list[bytes]]:
        wanted = 16 if topic.rows_per_record > 1 else 512
        while True:
            yield [message.value() for message in consumer.consume(wanted, 0.1)]

    try:
        return by_hand(topic, polls(), checked=checked)
    finally:
        consumer.close()


def aiokafka(address: str, topic: Topic) -> dict[str, float]:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def read() -> dict[str, float]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=address, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
        )
        await consumer.start()
        consumer.assign([TopicPartition(topic.name, 0)])
        await consumer.seek_to_beginning()
        clock, tensors, left = Clock(topic), Tensors(), []
        more = True
        while more:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=2000)).values():
                if topic.rows_per_record > 1:
                    for record in records:
                        tensors.fill_packed(record.value, checked=False)
                else:
                    left += [record.value for record in records]
                    while len(left) >= ROWS:
                        tensors.fill_samples(left[:ROWS], topic.row)
                        del left[:ROWS]
                more = clock.saw(len(records) * topic.rows_per_record)
        await consumer.stop()
        return clock.result()

    return asyncio.run(read())


def ours(driver: str) -> Callable[[str, Topic], dict[str, float]]:
    def run(address: str, topic: Topic) -> dict[str, float]:
        url = f"kafka://{address}/{topic.name}?partitions=0&driver={driver}"
        packed, sample = PackedCodec(SCHEMA), SampleCodec(SCHEMA)
        codecs = [packed, sample] if topic.rows_per_record > 1 else [sample, packed]
        source = LogSource(open_log(url).reader(topic.name, [0]), codecs)
        clock, more = Clock(topic), True
        while more:
            batch = source.take(ROWS)
            for column in batch.columns.values():
                torch.from_numpy(column)
            more = clock.saw(len(batch))
        source.close()
        return clock.result()

    return run


def peer(python: str, name: str) -> Callable[[str, Topic], dict[str, float]]:
    """A contender of benchmarks/kafka_peers.py, in a process of the peers' environment."""

    def run(address: str, topic: Topic) -> dict[str, float]:
        script = Path(__file__).with_name("kafka_peers.py")
        about = {"address": address, "topic": topic.name, "records": topic.records, "packed": topic.rows_per_record > 1}
        offsets = {key: topic.row.fields[key][1] for key in ("x", "y")} if topic.row.fields else {}
        about |= {"row_bytes": topic.row.itemsize, "offsets": offsets, "warm": WARM}
        command = [python, str(script), name, json.dumps(about)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603  # ours
        if done.returncode:
            raise RuntimeError(done.stderr[-1500:])
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run
