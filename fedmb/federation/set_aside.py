"""Which records of a stream were set aside, read from wherever their dead letters lie.

/var/lib/fedmb/state/meter/dead-letters      a client's folder, or a daemon's RING.dead-letters
kafka://broker:9092/rows                     the topic rows.dlq beside a topic; rows.dlq may be named too
file:///var/lib/fedmb/log?topic=rows         the same of a log in a directory
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.ingest.codec_choice import codecs_in
from fedmb.ingest.dead_letter import ERROR_HEADER, SUFFIX, source_of
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import SCHEMES, StreamUrl, open_log

if TYPE_CHECKING:
    from fedmb.ingest.log import Log
    from fedmb.ledger import StreamPartition


@dataclass(frozen=True, slots=True)
class SetAside:
    """One place of dead letters."""

    log: Log
    topic: str | None = None
    """The one whose letters are told; None tells those of every stream that has some here."""
    is_beside: bool = False
    """Whether the letters lie in the log of the stream itself, and other logs' are elsewhere."""

    @classmethod
    def opened(cls, place: str | Path) -> SetAside:
        """The letters in a folder, or of the stream that a URL names.

        Raises:
            SettingsError: there is no log, or the URL breaks a rule.
            Unreachable: no broker answers.
            AccessDenied: the brokers refuse who we are, or we them.
        """
        if isinstance(place, Path) or not place.startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
            return cls(FileLog.open(Path(place), fsync=FsyncPolicy.never(), create=False))
        url = StreamUrl.parse(codecs_in(place)[0])
        return cls(open_log(url, create=False), url.topic.removesuffix(SUFFIX), is_beside=url.scheme == "kafka")

    def may_hold(self, partition: StreamPartition) -> bool:
        """Whether no letter here means that no record of the partition was set aside."""
        return self.topic in {None, partition.topic} and not (self.is_beside and self.log.id != partition.log)

    def letters(self, partition: StreamPartition) -> dict[int, str]:
        """Error by offset of each record of a partition that was set aside.

        Raises:
            Unreachable: no broker answers.
            AccessDenied: we may not read there.
            CorruptLog: a letter is damaged.
        """
        topic, found = partition.topic + SUFFIX, {}
        if partition.partition not in self.log.partitions(topic):
            return {}
        with closing(self.log.reader(topic, [partition.partition])) as reader:
            (own,) = reader.partitions
            first, end = reader.begin_offsets()[own], reader.end_offsets()[own]
            for record in records_between(reader, first, end):
                source = source_of(record)
                if source is not None and source[0] == str(partition):
                    found[source[1]] = record.headers.get(ERROR_HEADER, b"").decode(errors="replace")
            reader.end_offsets()  # a log that has gone meanwhile raises: its silence was no end
        return found
