"""Records that were set aside, back into a topic once they can be read: after a codec or a schema was mended.

    for each letter from `start` on, in order:
        replayed before:   pass
        no codec reads it: count it; it stays where it is
        else:              append its bytes and own headers to the target, and where it came from as `fmb-replayed-from`
    now and then: target durable; ledger file

The ledger file says which records were replayed and how far the target was searched for more. A killed replay finds
in the target's tail what it had appended since, so each record is replayed once, however often the tool runs. Without
the file the whole target is searched. A tool killed while a broker still had its last records to write may repeat
those.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path  # pydantic reads a field's type at run time
from typing import TYPE_CHECKING

from pydantic import Field

from fedmb.errors import DecodeError
from fedmb.ingest.codec_choice import codecs_in
from fedmb.ingest.dead_letter import ERROR_HEADER, EXPECTED_HEADER, SOURCE_HEADER, SUFFIX, source_of
from fedmb.ingest.log import records_between
from fedmb.ingest.replay_ledger import REPLAYED_HEADER, ReplayLedger
from fedmb.ingest.stream_url import StreamUrl, open_log
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema
    from fedmb.ingest.codecs import Codecs
    from fedmb.ingest.log import Log, LogReader, Record
    from fedmb.ingest.producer import StopEvent

logger = logging.getLogger(__name__)

FLUSH_RECORDS = 500  # replayed between two writes of the ledger file; a killed replay searches about as many
_OURS = (SOURCE_HEADER, ERROR_HEADER, EXPECTED_HEADER)


class DeadLetterReplay(Section):
    """Which dead letters go back, and where to."""

    url: str
    """The stream whose letters are meant, in the log where TOPIC.dlq lies; partitions not named are all it has, of a
    file: log the first."""
    to: str | None = None
    """The stream that records go to; the first one if left out."""
    ledger: Path | None = None
    """File that says what was replayed; TOPIC.dlq.replayed.json here if left out."""
    start: int = Field(default=0, ge=0)
    """Offset of the first letter that is looked at, in each partition."""
    limit: float = Field(default=math.inf, ge=1)
    """Replay so many at most; inf is all."""
    dry_run: bool = False
    """Only count."""


@dataclass(slots=True)
class ReplayReport:
    """What a replay did, or would do."""

    letters: int = 0
    """Looked at."""
    replayed: int = 0
    """Appended to the target."""
    repeated: int = 0
    """Replayed before, or a second letter of one record."""
    undecodable: Counter[str] = field(default_factory=Counter)
    """By class of the error; they stay."""
    last_errors: dict[str, str] = field(default_factory=dict)
    """Text of the last error of each."""


def replay(settings: DeadLetterReplay, schema: Schema, stop: StopEvent) -> ReplayReport:
    """Append the dead letters that can be read now to their target, each once; returns early when `stop` is set.

    Args:
        settings: which letters, and where to; the first URL may also choose codecs, as `codec_choice` says.
        schema: columns that records must have.
        stop: set it to end after the record at hand; what was replayed is then durable and written down.

    Raises:
        SettingsError: a URL breaks a rule, or the ledger file is another's.
        AlreadyOwned: another replay has the ledger file, or another writer the target.
        Unreachable: a log does not answer.
        AccessDenied: we may not read or write there.
    """
    plain, choice = codecs_in(settings.url)
    codecs = choice.for_schema(schema)
    source, target = StreamUrl.parse(plain), StreamUrl.parse(codecs_in(settings.to)[0] if settings.to else plain)
    letters = open_log(source, create=False)
    report = ReplayReport()
    partitions = source.partitions or letters.partitions(source.topic + SUFFIX)
    path = settings.ledger or Path(f"{source.topic}{SUFFIX}.replayed.json")
    with ReplayLedger.owned(path, read_only=settings.dry_run) as ledger:
        log = open_log(target, create=not settings.dry_run)
        for partition in partitions:
            if stop.is_set() or report.replayed >= settings.limit:
                break
            with closing(letters.reader(source.topic + SUFFIX, [partition])) as reader:
                _replay_partition(reader, log, target.topic, codecs, settings, ledger, report, stop)
    return report


def _replay_partition(
    reader: LogReader,
    log: Log,
    topic: str,
    codecs: Codecs,
    settings: DeadLetterReplay,
    ledger: ReplayLedger,
    report: ReplayReport,
    stop: StopEvent,
) -> None:
    (name,) = reader.partitions
    # Opened first: where it is alone, nobody else replays between the search and our first record.
    writer = None if settings.dry_run else log.writer(topic, name.partition, exclusive=False)
    try:
        with closing(log.reader(topic, [name.partition])) as behind:
            ledger.search(behind)
            first = max(settings.start, reader.begin_offsets()[name])
            for letter in records_between(reader, first, reader.end_offsets()[name]):
                if stop.is_set() or report.replayed >= settings.limit:
                    break
                report.letters += 1
                headers = _replayable(letter, codecs, ledger, report)
                if headers is None:
                    continue
                if writer is not None:
                    writer.append(bytes(letter.value), headers)
                ledger.add(*_source(letter))
                report.replayed += 1
                if writer is not None and report.replayed % FLUSH_RECORDS == 0:
                    writer.flush()
                    ledger.save(behind)
            if writer is not None:
                writer.flush()
                ledger.save(behind)
    finally:
        if writer is not None:
            writer.close()
    logger.info("letters replayed partition=%s replayed=%d of=%d", name, report.replayed, report.letters)


def _replayable(letter: Record, codecs: Codecs, ledger: ReplayLedger, report: ReplayReport) -> dict[str, bytes] | None:
    """Headers of the record to append; None where it stays, which is counted."""
    if ledger.holds(*_source(letter)):
        report.repeated += 1
        return None
    headers = {name: value for name, value in letter.headers.items() if name not in _OURS}
    try:
        codecs.decoder(headers).decode(letter.value)
    except DecodeError as error:
        report.undecodable[type(error).__name__] += 1
        report.last_errors[type(error).__name__] = str(error)
        return None
    partition, offset = _source(letter)
    return {**headers, REPLAYED_HEADER: f"{partition}@{offset}".encode()}


def _source(letter: Record) -> tuple[str, int]:
    """Where the record lay; a letter without a header that says so counts as its own source."""
    return source_of(letter) or (str(letter.partition), letter.offset)
