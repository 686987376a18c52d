"""Records that no codec can read: set aside with their bytes and the reason, never guessed, never fatal."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedmb.errors import DecodeError
    from fedmb.ingest.log import Log, LogReader, LogWriter, Record
    from fedmb.ledger import StreamPartition

logger = logging.getLogger(__name__)

SUFFIX = ".dlq"
SOURCE_HEADER = "fmb-source"
"""Header of a dead letter: `log/topic[partition]@offset` of the record it copies."""
ERROR_HEADER = "fmb-error"
"""Header of a dead letter: class and text of the error."""

_MAX_ERROR_CHARACTERS = 500  # the text may quote the record
_READ_RECORDS = 500


class DeadLetters(Protocol):
    """Where undecodable records go."""

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Keep the record; one that was set aside before, by this or an earlier process, is not kept twice."""
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


def _source(record: Record) -> str:
    return f"{record.partition}@{record.offset}"


class CountedDeadLetters:
    """Counts, and remembers the last few in memory.

    Args:
        keep: how many to remember.
    """

    def __init__(self, keep: int = 16) -> None:
        self.last: deque[tuple[str, DecodeError]] = deque(maxlen=keep)
        self._seen: set[str] = set()
        self._repeated = 0

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Count the record once, whoever often it comes."""
        source = _source(record)
        if source in self._seen:
            self._repeated += 1
            return
        self._seen.add(source)
        self.last.append((source, error))
        logger.warning("record set aside source=%s error=%s", source, type(error).__name__)

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot of the counts."""
        return DeadLetterStatistics(len(self._seen), self._repeated)

    def close(self) -> None:
        """Nothing to release."""


class LogDeadLetters:
    """Copies records, byte for byte, to the topic `TOPIC.dlq` of a log, in the partition they came from.

    The writer of a dead-letter partition is opened with its first record, and what the partition holds is read back
    then: a source that seeks back, or a restarted process, does not write a letter twice.

    Args:
        log: where to write; any log, the records' own or another.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._writers: dict[tuple[str, int], LogWriter] = {}
        self._seen: set[str] = set()
        self._set_aside = 0
        self._repeated = 0

    def set_aside(self, record: Record, error: DecodeError) -> None:
        """Append the record's bytes and headers, with `fmb-source` and `fmb-error`, unless they are there already.

        Raises:
            AlreadyOwned: another process writes the dead letters of this partition.
            SettingsError: the topic's name leaves no room for `.dlq`.
        """
        writer = self._writer(record.partition)
        source = _source(record)
        if source in self._seen:
            self._repeated += 1
            return
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
        headers = {**record.headers, SOURCE_HEADER: source.encode(), ERROR_HEADER: text.encode(errors="replace")}
        writer.append(bytes(record.value), headers)
        self._seen.add(source)
        self._set_aside += 1
        logger.warning("record set aside source=%s error=%s", source, type(error).__name__)

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot of the counts; letters found when a partition was opened are in neither."""
        return DeadLetterStatistics(self._set_aside, self._repeated)

    def close(self) -> None:
        """Close the writers; they open again with the next record."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, partition: StreamPartition) -> LogWriter:
        key = (partition.topic + SUFFIX, partition.partition)
        writer = self._writers.get(key)
        if writer is None:
            writer = self._log.writer(*key)  # first, so that nobody appends while the letters are read back
            reader = self._log.reader(key[0], [key[1]])
            try:
                self._seen |= _sources(reader, writer.partition)
            except BaseException:
                writer.close()
                raise
            finally:
                reader.close()
            self._writers[key] = writer
        return writer


def _sources(reader: LogReader, partition: StreamPartition) -> set[str]:
    """Sources of all dead letters of a partition."""
    found: set[str] = set()
    end = reader.end_offsets()[partition]
    read = 0
    while read < end:
        for record in reader.poll(1.0, _READ_RECORDS):
            read = record.offset + 1
            found.add(record.headers.get(SOURCE_HEADER, b"").decode(errors="replace"))
    return found
