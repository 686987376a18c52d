"""The seam between fedmb and anything that keeps records in order: topics, partitions, offsets, as in Kafka.

A `Log` hands out writers and readers. A record is bytes plus headers; what the bytes mean is the codec's business.
Offsets of a partition ascend from 0 and are never reused. A broker's may leave gaps, where transactions were marked or
records compacted away; its oldest records may be gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmb.ledger import StreamPartition

READ_RECORDS = 500  # fetched at once when a stretch of a log is read through
EMPTY_SECONDS = 2.0  # a poll that gives nothing for so long has nothing to give


class Record(NamedTuple):
    """One record as a reader found it."""

    partition: StreamPartition
    offset: int
    timestamp_us: int
    """Microseconds since the epoch at which the writer appended it."""
    value: bytes | memoryview
    """The payload; a view stays valid until the reader's next `poll`."""
    headers: Mapping[str, bytes]


class LogWriter(Protocol):
    """Appends to one partition; a partition has one writer at a time."""

    partition: StreamPartition

    @property
    def end_offset(self) -> int:
        """Offset that the next record gets; -1 where others may write too."""
        ...

    def append(self, value: bytes, headers: Mapping[str, bytes] | None = None) -> int:
        """Add a record at the end and answer its offset; durable as far as the log's fsync policy says.

        A writer over a network answers the offset that the record will get, and raises at a later call if it did
        not; where others may write too it answers -1, for what they write is not known before the log says.
        """
        ...

    def flush(self) -> None:
        """Make every record appended so far durable."""
        ...

    def close(self) -> None:
        """Flush and give up the partition."""
        ...


class LogReader(Protocol):
    """Reads some partitions of one topic, each from its own offset on."""

    partitions: Sequence[StreamPartition]

    def seek(self, partition: StreamPartition, offset: int) -> None:
        """Let the next `poll` give `offset` first.

        Raises:
            ValueError: the partition is not assigned to this reader, or the offset is negative.
        """
        ...

    def poll(self, timeout_seconds: float, max_records: int = 500) -> list[Record]:
        """The next records, in offset order within each partition; empty when none came in time.

        Partitions share `max_records` equally. Where that leaves each at least one, every partition that holds
        records when the call begins gives some, whatever the timeout: a reader that fetches over a network waits for
        what is known to be there. So the order in which partitions are read never depends on which of them a network
        brought first.

        Raises:
            CorruptLog: the next bytes fail their checksum and are not merely unfinished.
            RecordsGone: the log no longer holds the record at the reader's offset.
            AccessDenied: a broker refuses this reader.
        """
        ...

    def begin_offsets(self) -> dict[StreamPartition, int]:
        """Offset of the oldest record of each partition that can be read, its end where it holds none."""
        ...

    def end_offsets(self) -> dict[StreamPartition, int]:
        """Offset that the next record of each partition will get."""
        ...

    def acknowledge(self, offsets: Mapping[StreamPartition, int], note: str) -> None:
        """Tell lag monitors that everything before these offsets is part of a stored model; never blocks for long.

        Nothing is ever read from here on that account: where to go on is in the checkpoint. A log without monitors
        does nothing.

        Args:
            offsets: by partition; partitions of other readers are ignored.
            note: what stored them, such as a model's version.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class Log(Protocol):
    """A place that keeps topics."""

    id: str
    """Identity that travels in ledgers; two logs with the same id must hold the same records."""

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Numbers of the partitions that a topic has, ascending; none while it does not exist."""
        ...

    def writer(self, topic: str, partition: int, *, exclusive: bool = True) -> LogWriter:
        """The writer of a partition, which is made when it does not exist.

        Args:
            topic: where to.
            partition: of it.
            exclusive: be the only one; without, others may write too where the log can have it so, and the order
                among writers is the log's. A file or memory log cannot.

        Raises:
            AlreadyOwned: another live writer has it; a log that cannot lock notices at the first record.
            Unreachable: the log does not answer.
            AccessDenied: we may not write there.
        """
        ...

    def reader(self, topic: str, partitions: Sequence[int]) -> LogReader:
        """A reader that starts at offset 0 of each partition; partitions may not exist yet."""
        ...


def records_between(reader: LogReader, first: int, stop: int) -> Iterator[Record]:
    """Records of a reader's one partition from offset `first` up to, not including, `stop`.

    It ends earlier where a broker's last offsets hold no records: a reader waits for those that are known to be
    there, so an empty poll means that there are none.

    Raises:
        FedmbError: as `poll`.
    """
    (partition,) = reader.partitions
    reader.seek(partition, first)
    here = first
    while here < stop and (records := reader.poll(EMPTY_SECONDS, READ_RECORDS)):
        for record in records:
            if record.offset >= stop:
                return
            yield record
        here = records[-1].offset + 1
