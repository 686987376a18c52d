"""Records of one row each into records of many, each row once, partition by partition.

    stop     = what the target's last record says it was packed up to
    seek the source there
    until told to stop:
        gather rows until there are enough or the first has waited long enough
        append them as one record whose header says up to where they reach

The position behind a packed record's rows travels in the record itself, so both are there or neither, and a packer that
was killed goes on exactly behind the last record that reached the target. Source and target have the same partitions,
and a target has one packer at a time; its log refuses a second.

A lot is cut where its rows are enough or when it has lingered, so where records end depends on time; which rows there
are and their order does not.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import CorruptLog, RecordsGone, SettingsError
from fedmb.ingest.assembler import Assembler
from fedmb.ingest.codec import Codec, codec_headers
from fedmb.ledger import Ledger, Position, StreamPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmb.batch.minibatch import Columns
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import Log, LogReader, Record
    from fedmb.ingest.producer import StopEvent

logger = logging.getLogger(__name__)

PACKED_HEADER = "fmb-packed"
"""Header of a packed record: a ledger in JSON, the source's position behind the record's last row."""
POLL_SECONDS = 0.25  # longest single wait inside a reader; a stop is seen within it
IDLE_SECONDS = 0.02  # between two rounds over partitions none of which gave a row
LAST_SECONDS = 5.0  # for a record that the log says it holds
LAST_RECORDS = 64  # looked at from a partition's end on; a broker's markers may stand behind the last record


@dataclass(frozen=True, slots=True)
class PackStatistics:
    """What a run of a packer has done."""

    rows: int
    """Rows packed."""
    records: int
    """Packed records appended."""
    rejected: int
    """Source records set aside."""


class Packer:
    """Packs one partition of a source into the partition of the same number of a target.

    Args:
        source: of the records to pack.
        topic: its topic.
        target: where packed records go; another log, or another topic of the same.
        target_topic: its topic.
        partition: of both.
        codecs: of the source; the first decodes records whose headers name none.
        codec: makes the packed records.
        dead_letters: where undecodable records go; not closed.
        rows: rows of a packed record.
        linger_seconds: how long rows wait for more of them; what waits when the packer stops is packed next time.
        clock: monotonic seconds.

    Raises:
        SettingsError: `rows` is not positive, source and target are one, or the target holds records that no packer of
            this source wrote.
        AlreadyOwned: another writer has the target's partition.
    """

    def __init__(
        self,
        source: Log,
        topic: str,
        target: Log,
        target_topic: str,
        partition: int,
        *,
        codecs: Sequence[Codec],
        codec: Codec,
        dead_letters: DeadLetters,
        rows: int = 256,
        linger_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if rows < 1:
            raise SettingsError(f"a packed record must have 1 row or more, got rows={rows}; 256 is usual", key="rows")
        if (source.id, topic) == (target.id, target_topic):
            raise SettingsError(
                f"packed records must go to another topic, got {topic!r} for both; name another", key="to"
            )
        self._rows, self._linger_seconds, self._clock = rows, linger_seconds, clock
        self._codec = codec
        self._dead_letters = dead_letters
        self._appended = self._packed = 0
        self._parts: list[Columns] = []
        self._closes_at = math.inf
        self._writer = target.writer(target_topic, partition)
        try:
            self._reader = source.reader(topic, [partition])
            (self._partition,) = self._reader.partitions
            self._assembler = Assembler(self._reader, codecs, dead_letters)
            here = packed_up_to(target.reader(target_topic, [partition]), self._partition)
            begin = Position(self._reader.begin_offsets()[self._partition])
            self._assembler.seek({self._partition: here or begin}, 0)
        except BaseException:
            self._writer.close()
            raise
        logger.info("packer started source=%s position=%s", self._partition, list(here or begin))

    def step(self, wait_seconds: float = 0.0) -> bool:
        """Take what is there, waiting at most so long for it; append a record when it is due. False when nothing came.

        Raises:
            CorruptLog, RecordsGone, AccessDenied, Unreachable: what the source met; rows in front of it are packed
                first.
        """
        try:
            run = self._assembler.run(self._missing)
            if run is None and self._assembler.wait(min(wait_seconds, self._until_close()), self._missing):
                run = self._assembler.run(self._missing)
        except (CorruptLog, RecordsGone):
            self.append()
            raise
        if run is not None:
            if not self._parts:
                self._closes_at = self._clock() + self._linger_seconds
            self._parts.append(run.columns)
        if self._parts and (self._missing == 0 or self._until_close() == 0):
            self.append()
        return run is not None

    def append(self) -> None:
        """Append the rows that wait as one record, where there are any."""
        if not self._parts:
            return
        columns = {name: np.concatenate([part[name] for part in self._parts]) for name in self._codec.schema}
        ledger = Ledger(self._assembler.cursor()).to_json()
        self._dead_letters.flush()  # the header passes records only once their letters are safe
        position = json.dumps(ledger, separators=(",", ":")).encode()
        self._writer.append(self._codec.encode(columns), {**codec_headers(self._codec), PACKED_HEADER: position})
        self._packed += len(next(iter(columns.values())))
        self._appended += 1
        self._parts.clear()
        self._closes_at = math.inf

    @property
    def is_at_end(self) -> bool:
        """True when every record that the source holds at this moment was taken."""
        return self._assembler.cursor()[self._partition].offset >= self._reader.end_offsets()[self._partition]

    def statistics(self) -> PackStatistics:
        """A snapshot of the counts."""
        return PackStatistics(self._packed, self._appended, self._assembler.rejected)

    def close(self) -> None:
        """Give up source and target; rows that still wait are read again by the next packer."""
        try:
            self._writer.close()
        finally:
            self._reader.close()

    @property
    def _missing(self) -> int:
        return self._rows - sum(len(next(iter(part.values()))) for part in self._parts)

    def _until_close(self) -> float:
        return max(0.0, self._closes_at - self._clock())


def pack(packers: Sequence[Packer], stop: StopEvent, *, to_the_end: bool = False) -> PackStatistics:
    """Run packers in turns until `stop` is set, or to the end of what their sources hold; closes them.

    Raises:
        CorruptLog, RecordsGone, AccessDenied, Unreachable: what a source or a target met; the next run goes on there.
    """
    try:
        while not stop.is_set():
            alone = len(packers) == 1
            came = [packer.step(POLL_SECONDS if alone and not to_the_end else 0.0) for packer in packers]
            if any(came):
                continue
            if to_the_end and all(packer.is_at_end for packer in packers):
                break
            if not alone:
                stop.wait(IDLE_SECONDS)
        for packer in packers:
            packer.append()
    finally:
        for packer in packers:
            packer.close()
    parts = [packer.statistics() for packer in packers]
    return PackStatistics(*(sum(getattr(part, name) for part in parts) for name in ("rows", "records", "rejected")))


def packed_up_to(reader: LogReader, source: StreamPartition) -> Position | None:
    """Where the last record of a packed partition says that it ends in its source; None while there is none.

    Args:
        reader: of that one packed partition; closed.
        source: the partition that is packed.

    Raises:
        SettingsError: the last record was written by somebody else, or from another source.
    """
    try:
        last = _last_record(reader)
    finally:
        reader.close()
    if last is None:
        return None
    header = last.headers.get(PACKED_HEADER, b"")
    try:
        position = Ledger.from_json(json.loads(header)).get(source)
    except (ValueError, AttributeError, RecursionError):
        position = None
    if position is None:
        raise SettingsError(
            f"a target must hold what was packed from {source} and nothing else, {last.partition} offset {last.offset} "
            f"says {header[:80]!r}; choose a topic of its own",
            key="to",
        )
    return position


def _last_record(reader: LogReader) -> Record | None:
    """The last record of a reader's one partition; a broker's offsets may have gaps in front of the end."""
    (partition,) = reader.partitions
    begin, end = reader.begin_offsets()[partition], reader.end_offsets()[partition]
    back = LAST_RECORDS
    while begin < end:
        first = max(begin, end - back)
        reader.seek(partition, first)
        last, at = None, first
        while at < end and (records := reader.poll(LAST_SECONDS, LAST_RECORDS)):
            last, at = records[-1], records[-1].offset + 1
        if last is not None:
            return last._replace(value=b"")
        if first == begin:
            break
        back *= 2
    return None
