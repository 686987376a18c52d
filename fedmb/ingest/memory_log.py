"""A log in this process's memory, with the semantics of a file log: for tests, examples and simulation."""

from __future__ import annotations

import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.ingest.log import Record
from fedmb.ingest.topic import stream_partition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmb.ledger import StreamPartition

_LONGEST_WAIT = 3600.0  # seconds; a condition cannot wait for infinity, and looks again after this


class _Shelf:
    """What writers and readers of one log share; everything under `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: dict[StreamPartition, list[Record]] = {}
        self.owned: set[StreamPartition] = set()


class MemoryLogWriter:
    """Appends to one partition; safe to use from several threads."""

    def __init__(self, partition: StreamPartition, shelf: _Shelf) -> None:
        self.partition = partition
        self._shelf = shelf
        self._is_open = True
        with shelf.changed:
            if partition in shelf.owned:
                raise AlreadyOwned(
                    f"a partition has one writer at a time, but another writer of this process has {partition}; close "
                    "it, or write to another partition"
                )
            shelf.owned.add(partition)
            self._records = shelf.records.setdefault(partition, [])

    @property
    def end_offset(self) -> int:
        """Offset that the next record gets."""
        return len(self._records)

    def append(self, value: bytes, headers: Mapping[str, bytes] | None = None) -> int:
        """Add a record at the end and answer its offset.

        Raises:
            ValueError: the writer is closed.
        """
        return self.append_many((value,), headers)

    def append_many(self, values: Sequence[bytes], headers: Mapping[str, bytes] | None = None) -> int:
        """Add one record for each value, all with the same headers; answers the first offset.

        Raises:
            ValueError: the writer is closed.
        """
        kept = MappingProxyType(dict(headers or {}))
        with self._shelf.changed:
            if not self._is_open:
                raise ValueError(f"the writer of {self.partition} is closed; open another one")
            first = len(self._records)
            timestamp_us = time.time_ns() // 1000
            self._records.extend(
                Record(self.partition, first + index, timestamp_us, bytes(value), kept)
                for index, value in enumerate(values)
            )
            self._shelf.changed.notify_all()
            return first

    def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    def close(self) -> None:
        """Give up the partition; a second call does nothing."""
        with self._shelf.changed:
            if self._is_open:
                self._is_open = False
                self._shelf.owned.discard(self.partition)


class MemoryLogReader:
    """Reads some partitions of one topic, each an equal share of a poll."""

    def __init__(self, partitions: Sequence[StreamPartition], shelf: _Shelf) -> None:
        self.partitions: Sequence[StreamPartition] = tuple(partitions)
        self._shelf = shelf
        self._offsets = dict.fromkeys(self.partitions, 0)
        self._first = 0
        self._is_open = True

    def seek(self, partition: StreamPartition, offset: int) -> None:
        """Let the next `poll` give `offset` first; one that does not exist yet is waited for.

        Raises:
            ValueError: the partition is not assigned to this reader, or the offset is negative.
        """
        if partition not in self._offsets:
            raise ValueError(f"a reader seeks in {', '.join(map(str, self.partitions))}, got {partition}; assign it")
        if offset < 0:
            raise ValueError(f"an offset must be 0 or more, got {offset} for {partition}; 0 is the beginning")
        with self._shelf.changed:
            self._offsets[partition] = offset

    def poll(self, timeout_seconds: float, max_records: int = 500) -> list[Record]:
        """The next records, in offset order within each partition; empty when none came in time.

        Raises:
            ValueError: the reader is closed, or `max_records` is not positive.
        """
        if max_records < 1:
            raise ValueError(f"a poll must ask for 1 record or more, got max_records={max_records}")
        deadline = time.monotonic() + timeout_seconds
        with self._shelf.changed:
            if not self._is_open:
                raise ValueError("the reader is closed; open another one")
            while True:
                records = self._ready(max_records)
                remaining = deadline - time.monotonic()
                if records or remaining <= 0 or not self._is_open:
                    return records
                self._shelf.changed.wait(min(remaining, _LONGEST_WAIT))

    def begin_offsets(self) -> dict[StreamPartition, int]:
        """0 for each partition: memory forgets nothing."""
        return dict.fromkeys(self.partitions, 0)

    def end_offsets(self) -> dict[StreamPartition, int]:
        """Offset that the next record of each partition will get."""
        with self._shelf.changed:
            return {partition: len(self._shelf.records.get(partition, ())) for partition in self.partitions}

    def acknowledge(self, offsets: Mapping[StreamPartition, int], note: str) -> None:
        """Nothing to do: nobody watches the lag of a log in memory."""

    def close(self) -> None:
        """Wake a waiting `poll`."""
        with self._shelf.changed:
            self._is_open = False
            self._shelf.changed.notify_all()

    def _ready(self, max_records: int) -> list[Record]:
        share = max(1, max_records // len(self.partitions))
        found: list[Record] = []
        self._first += 1
        for step in range(len(self.partitions)):
            partition = self.partitions[(self._first + step) % len(self.partitions)]
            start = self._offsets[partition]
            records = self._shelf.records.get(partition, ())[start : start + min(share, max_records - len(found))]
            self._offsets[partition] += len(records)
            found += records
        return found


class MemoryLog:
    """Topics in memory, for any number of threads of one process.

    Args:
        id: identity that ledgers name.
    """

    def __init__(self, id: str = "memory") -> None:  # noqa: A002  # the protocol's word
        if not (id and id.isprintable()):
            raise SettingsError(f"a log's id must be printable and not empty, got {id!r}; name the log", key="id")
        self.id = id
        self._shelf = _Shelf()

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Numbers of the partitions that were written to, ascending."""
        with self._shelf.changed:
            return tuple(sorted(one.partition for one in self._shelf.records if one.topic == topic))

    def writer(self, topic: str, partition: int, *, exclusive: bool = True) -> MemoryLogWriter:
        """The writer of a partition, which is made when it does not exist; it is alone in any case.

        Raises:
            AlreadyOwned: another open writer has it.
            SettingsError: topic or partition break Kafka's rules.
        """
        return MemoryLogWriter(stream_partition(self.id, topic, partition), self._shelf)

    def reader(self, topic: str, partitions: Sequence[int]) -> MemoryLogReader:
        """A reader that starts at offset 0 of each partition; partitions may not exist yet.

        Raises:
            SettingsError: there is no partition, or topic or a partition break Kafka's rules.
        """
        names = dict.fromkeys(stream_partition(self.id, topic, index) for index in partitions)
        if not names:
            raise SettingsError("a reader must have 1 partition or more, got none; name one", key="partitions")
        return MemoryLogReader(tuple(names), self._shelf)
