"""Records that no codec can read: set aside with their bytes and the reason, never guessed, never fatal."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fedmb.errors import FedmbError
from fedmb.ingest.log import records_between
from fedmb.ingest.rejected_offsets import KEPT, RejectedOffsets

if TYPE_CHECKING:
    from fedmb.errors import DecodeError
    from fedmb.ingest.log import Log, LogReader, LogWriter, Record
    from fedmb.ingest.reject_limit import RejectLimit
    from fedmb.ledger import StreamPartition

logger = logging.getLogger(__name__)

SUFFIX = ".dlq"
SOURCE_HEADER = "fmb-source"
"""Header of a dead letter: `log/topic[partition]@offset` of the record it copies."""
ERROR_HEADER = "fmb-error"
"""Header of a dead letter: class and text of the error."""
EXPECTED_HEADER = "fmb-expected-schema"
"""Header of a dead letter: `schema_id` of the columns that were expected; `fmb-schema` is the record's own."""

_MAX_ERROR_CHARACTERS = 500  # the text may quote the record


class DeadLetters(Protocol):
    """Where undecodable records go."""

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Keep the record; one that was set aside before, by this or an earlier process, is not kept twice.

        Raises:
            TooManyRejected: it is one more than a stream in order has; it was not kept, and nothing may pass it.
        """
        ...

    def flush(self) -> None:
        """Make every record set aside so far durable; called before a ledger passes them."""
        ...

    def close(self) -> None:
        """Release what was opened."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetterStatistics:
    """What a sink has done since it was made."""

    set_aside: int
    """Records kept."""
    repeated: int
    """Records that had been kept before, and came again after a seek back."""


def source_of(record: Record) -> tuple[str, int] | None:
    """Partition and offset of the record that a dead letter copies; None where no header says."""
    text = record.headers.get(SOURCE_HEADER, b"").decode(errors="replace")
    partition, _, offset = text.rpartition("@")
    return (partition, int(offset)) if partition and offset.isascii() and offset.isdecimal() else None


class CountedDeadLetters:
    """Counts, and remembers the last few in memory.

    Args:
        keep: how many to remember.
        limit: how many there may be; no limit by default.
    """

    def __init__(self, keep: int = 16, *, limit: RejectLimit | None = None) -> None:
        self.last: deque[tuple[str, DecodeError]] = deque(maxlen=keep)
        self._limit = limit
        self._known = RejectedOffsets()
        self._set_aside = 0
        self._repeated = 0

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Count the record once, however often it comes.

        Raises:
            TooManyRejected: it is one more than the limit allows.
        """
        if self._limit is not None:
            self._limit.check(record, error, self._known)
        if self._known.holds(record.partition, record.offset):
            self._repeated += 1
            return
        self._known.add(record.partition, record.offset)
        self._set_aside += 1
        source = f"{record.partition}@{record.offset}"
        self.last.append((source, error))
        logger.warning("record set aside source=%s error=%s", source, type(error).__name__)

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot of the counts."""
        return DeadLetterStatistics(self._set_aside, self._repeated)

    def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    def close(self) -> None:
        """Nothing to release."""


class _Opened(NamedTuple):
    """A partition of dead letters that is written to."""

    writer: LogWriter
    known: RejectedOffsets
    """What lies there."""


class LogDeadLetters:
    """Copies records, byte for byte, to the topic `TOPIC.dlq` of a log, in the partition they came from.

    A letter is sent at once and durable after `flush`. The writer of a dead-letter partition is opened with its first
    record, and what the partition holds is read back then: a source that seeks back, or a restarted process, does not
    write a letter twice. Memory is bounded: the newest 65,536 letters of a partition are known; one of an older
    record that comes again is kept again, as is one whose first copy was still on its way when its sender was killed.
    Where several processes read one partition, each keeps its own letters.

    Args:
        log: where to write; any log, the records' own or another.
        schema: `schema_id` of the columns that are expected; told in each letter.
        limit: how many there may be; no limit by default.
    """

    def __init__(self, log: Log, *, schema: str = "", limit: RejectLimit | None = None) -> None:
        self._log = log
        self._schema = schema
        self._limit = limit
        self._opened: dict[tuple[str, int], _Opened] = {}
        self._unflushed: set[tuple[str, int]] = set()
        self._set_aside = 0
        self._repeated = 0

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Append the record's bytes and headers, with where it came from and why, unless they are there already.

        Raises:
            TooManyRejected: it is one more than the limit allows.
            AlreadyOwned: another process writes the dead letters of this partition, and the log has one writer each.
            SettingsError: the topic's name leaves no room for `.dlq`.
            Unreachable: the log does not answer.
            AccessDenied: we may not write there.
        """
        key = (record.partition.topic + SUFFIX, record.partition.partition)
        writer, known = self._opened.get(key) or self._open(key)
        if self._limit is not None:
            self._limit.check(record, error, known)
        if known.holds(record.partition, record.offset):
            self._repeated += 1
            return
        source = f"{record.partition}@{record.offset}"
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
        headers = {**record.headers, SOURCE_HEADER: source.encode(), ERROR_HEADER: text.encode(errors="replace")}
        if self._schema:
            headers[EXPECTED_HEADER] = self._schema.encode()
        self._unflushed.add(key)
        try:
            writer.append(bytes(record.value), headers)
        except FedmbError:
            self._drop(key)
            raise
        known.add(record.partition, record.offset)
        self._set_aside += 1
        logger.warning("record set aside source=%s error=%s", source, type(error).__name__)

    def flush(self) -> None:
        """Make every letter durable; what follows a failure is read back, and written again where it is missing.

        Raises:
            FedmbError: as `set_aside`.
        """
        for key in sorted(self._unflushed):
            try:
                self._opened[key].writer.flush()
            except FedmbError:
                self._drop(key)
                raise
            self._unflushed.discard(key)

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot of the counts; letters found when a partition was opened are in neither."""
        return DeadLetterStatistics(self._set_aside, self._repeated)

    def close(self) -> None:
        """Flush and close the writers; they open again with the next record."""
        self._unflushed.clear()
        while self._opened:
            self._opened.popitem()[1].writer.close()

    def _open(self, key: tuple[str, int]) -> _Opened:
        writer = self._log.writer(*key, exclusive=False)  # first: where it is alone, nobody appends while we read back
        try:
            reader = self._log.reader(key[0], [key[1]])
            try:
                opened = self._opened[key] = _Opened(writer, _read_back(reader, writer.partition))
            finally:
                reader.close()
        except BaseException:
            writer.close()
            raise
        return opened

    def _drop(self, key: tuple[str, int]) -> None:
        """Forget a writer that failed, and what it may not have written."""
        self._unflushed.discard(key)
        with contextlib.suppress(FedmbError):  # the first error is told
            self._opened.pop(key).writer.close()


def _read_back(reader: LogReader, partition: StreamPartition) -> RejectedOffsets:
    """Sources of the newest dead letters of a partition."""
    known = RejectedOffsets()
    end = reader.end_offsets()[partition]
    for record in records_between(reader, max(reader.begin_offsets()[partition], end - KEPT), end):
        if source := source_of(record):
            known.add(*source)
    return known
