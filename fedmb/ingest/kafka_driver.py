"""The seam between a Kafka reader and the library that speaks to the brokers.

A driver is one connected client of one topic. It gives records in fedmb's form and says how far it has read; when to
open it, what to do about its errors and where to go on is the reader's business. After `fetch` has raised, a driver
is only good for closing: libraries are in no known state then, and some never return from a further call.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fedmb.errors import AccessDenied, CorruptLog, RecordsGone
from fedmb.ingest.log import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from fedmb.ledger import StreamPartition

NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})
"""Shared by every record without headers."""
MONITORED_GROUP = "fedmb"
"""Group under which lag monitors find offsets when the connection names none."""
SESSION_SECONDS = 10.0  # a group member that is silent for so long is thrown out; a killed one's partitions move then
MOST_SILENT_SECONDS = 60.0  # between two fetches of a group member; its reader fetches far more often by itself


_new_record: Callable[[tuple[object, ...]], Record] = partial(tuple.__new__, Record)  # half the time of Record(...)


class Fetched(NamedTuple):
    """Consecutive records of one partition."""

    partition: int
    records: list[Record]
    num_bytes: int
    """Of their values."""


class KafkaDriver(Protocol):
    """A connected client that reads partitions of one topic; used by one thread at a time."""

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions and no others, each from its offset on; does not block. Not for a group's member."""
        ...

    def assigned(self) -> frozenset[int]:
        """Partitions read at this moment; those of a group's member change in fetches.

        A partition that a group gives is paused at offset 0, until it is sought and resumed.
        """
        ...

    def take_revoked(self) -> frozenset[int]:
        """Partitions that the group took away since the last call, also those it gave back since."""
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset` of an assigned partition."""
        ...

    def fetch(self, timeout_seconds: float, max_records: int) -> list[Fetched]:
        """What has come, in offset order within each partition; waits only while there is nothing at all.

        Raises:
            CorruptLog: the next records of a partition fail their checksum; its `offset` is where their batch begins.
            RecordsGone: the broker has no record at a partition's offset, and will get none.
            AccessDenied: the broker refuses who we are.
            Exception: anything else, after which the driver is only good for closing.
        """
        ...

    def position(self, partition: int) -> int:
        """Offset from which the next record is expected: behind the last one fetched and the markers after it."""
        ...

    def begin_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset of the oldest record of each partition that exists.

        Raises:
            Exception: no answer in time.
        """
        ...

    def end_offsets(self, partitions: Collection[int], timeout_seconds: float) -> dict[int, int]:
        """Offset behind the last record that can be read, of each partition that exists.

        Raises:
            Exception: no answer in time.
        """
        ...

    def pause(self, partitions: Collection[int]) -> None:
        """Give nothing of these partitions until they are resumed."""
        ...

    def resume(self, partitions: Collection[int]) -> None:
        """Give records of these partitions again."""
        ...

    def commit(self, offsets: Mapping[int, int], note: str) -> None:
        """Show these offsets to monitors of the member's group, with `note` as their metadata.

        Does not wait for the answer; failures are logged. Nobody else may commit in a group that has members.
        """
        ...

    def close(self) -> None:
        """Leave the group, unless as a named member, and close connections; takes a second or two at most."""
        ...


class HeaderCache:
    """Header mappings of records, one shared by consecutive records whose headers are the same."""

    def __init__(self) -> None:
        self._last: Sequence[tuple[str, bytes | None]] = ()
        self._mapping = NO_HEADERS

    def mappings(self, many: Collection[Sequence[tuple[str, bytes | None]] | None]) -> Iterable[Mapping[str, bytes]]:
        """As `mapping`, for each of many; without end where there is none at all."""
        return map(self.mapping, many) if any(many) else repeat(NO_HEADERS)

    def mapping(self, headers: Sequence[tuple[str, bytes | None]] | None) -> Mapping[str, bytes]:
        """The headers by name, the last of several with one name; no value is an empty one."""
        if not headers:
            return NO_HEADERS
        if headers != self._last:
            self._last = headers
            self._mapping = MappingProxyType({name: value or b"" for name, value in headers})
        return self._mapping


def fetched_of(
    name: StreamPartition,
    offsets: Iterable[int],
    timestamps_ms: Iterable[int],
    values: Sequence[bytes],
    headers: Iterable[Mapping[str, bytes]],
) -> Fetched:
    """Records of one partition from their columns; C from end to end, for this runs for every record.

    Args:
        name: the partition.
        offsets: of the records.
        timestamps_ms: milliseconds since the epoch.
        values: theirs; None, which deletes a key of a compacted topic, becomes empty.
        headers: by name.
    """
    if None in values:
        values = [value or b"" for value in values]
    timestamps_us = [timestamp * 1000 for timestamp in timestamps_ms]
    columns = zip(repeat(name), offsets, timestamps_us, values, headers)  # some repeat without end
    return Fetched(name.partition, list(map(_new_record, columns)), sum(map(len, values)))


def corrupt_log(topic: str, partition: int, offset: int, finding: str) -> CorruptLog:
    """The error of a batch that fails its checksum."""
    return CorruptLog(
        f"records of {topic}[{partition}] must match their checksum, but the batch at offset {offset} does not "
        f"({finding}); restore it from a replica, or accept the loss with on_corrupt=skip",
        topic=topic,
        partition=partition,
        offset=offset,
    )


def records_gone(topic: str, partition: int, offset: int) -> RecordsGone:
    """The error of an offset that a broker does not hold and will not get."""
    return RecordsGone(
        f"{topic}[{partition}] must still hold offset {offset}, but the broker has it no more: retention passed it, or "
        "the topic was made anew; restore the topic, or accept the loss with on_gap=skip",
        topic=topic,
        partition=partition,
        offset=offset,
    )


def access_denied(topic: str, finding: str) -> AccessDenied:
    """The error of a broker that refuses who we are."""
    return AccessDenied(
        f"a reader must be allowed to read {topic}, the broker says: {finding}; grant READ on the topic, and on the "
        "group where there is one"
    )
