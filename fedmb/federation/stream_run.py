"""What the daemon of a stream is told, and the parts that it is put together from: a log, a ring, a pump between."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, model_validator

from fedmb.federation.stream_schema import read_schema, schema_named
from fedmb.ingest.codec import schema_id
from fedmb.ingest.codec_choice import CodecChoice, codecs_in
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.pump import Pump
from fedmb.ingest.reject_limit import RejectLimit
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of
from fedmb.replay.stream_ring import OnFull, StreamRing
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import Log, LogReader


class Watching(Section):
    """Where the daemon may be watched."""

    host: str = "127.0.0.1"
    """Address of /metrics, /healthz and /readyz. They show topics and counts, no rows, and are not encrypted."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of it; 0 is any that is free, which the log names."""
    stuck_seconds: float = Field(default=30.0, gt=0)
    """How long the log may be silent, or a call last, before /healthz says so."""


class StreamRun(Section):
    """Everything that `fedmb stream run` can be told."""

    url: str = Field(min_length=1)
    """The stream, like kafka://broker:9092/rows?codecs=json or file:///var/lib/fedmb/log?topic=rows."""
    ring: Path
    """File that rows go to, for a client of this machine to learn from; made when there is none."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; its schema is the rows'. Not loaded when there is a schema file."""
    schema_file: Path | None = None
    """The rows' columns, written by `fedmb stream schema`; with it, the daemon needs neither task nor torch."""
    start: Literal["oldest", "newest"] = "oldest"
    """Where a new ring begins: at the oldest record that the stream holds, or behind the newest."""
    max_bytes: int = Field(default=256 << 20, ge=1)
    """Room that the ring may take on its disk; a ring keeps the size that it was made with."""
    on_full: OnFull = "wait"
    """What to do when no row may be overwritten: wait for the reader, or drop the oldest and count them."""
    commit_rows: int = Field(default=4096, ge=1)
    """Rows handed to the ring at once, at most."""
    linger_seconds: float = Field(default=0.02, ge=0, le=60)
    """How long rows wait for more of them."""
    flush_seconds: float = Field(default=1.0, gt=0)
    """Time between two flushes to the disk; what a power cut costs is read again."""
    dead_letters: str | None = None
    """Directory of a log that undecodable records go to, topic NAME.dlq. Left out, they go to the stream's own cluster,
    and beside the ring where the stream is a file: one."""
    rejects: RejectLimit = RejectLimit()
    watching: Watching = Watching()

    @model_validator(mode="after")
    def _of_another_process(self) -> StreamRun:
        if StreamUrl.parse(codecs_in(self.url)[0]).scheme == "memory":
            raise ValueError(f"a daemon's stream is filled by another process, got {self.url}; write kafka: or file:")
        return self

    def row_schema(self) -> Schema:
        """Columns of the rows.

        Raises:
            SettingsError: the schema's file or the task cannot be read.
        """
        return read_schema(self.schema_file) if self.schema_file else schema_named(self.task)


class Stream(NamedTuple):
    """A stream that is being read."""

    log: Log
    url: StreamUrl
    choice: CodecChoice
    reader: LogReader


def open_stream(settings: StreamRun) -> Stream:
    """The stream, with a reader of its partitions that the caller closes.

    Raises:
        SettingsError: the URL breaks a rule, or its topic does not exist.
        Unreachable: no broker answers.
        AccessDenied: the brokers refuse who we are.
    """
    plain, choice = codecs_in(settings.url)
    url = StreamUrl.parse(plain)
    log = open_log(url)
    return Stream(log, url, choice, log.reader(url.topic, partitions_of(log, url)))


def open_ring(settings: StreamRun, reader: LogReader) -> StreamRing:
    """The ring, owned until it is closed.

    Raises:
        AlreadyOwned: another daemon has it; the note says which process.
        SettingsError: the file was made for other columns, partitions or another size, or the disk is full.
        CorruptRing: the file is damaged.
    """
    return StreamRing(
        settings.ring,
        settings.row_schema(),
        reader.partitions,
        max_bytes=settings.max_bytes,
        on_full=settings.on_full,
    )


def open_dead_letters(settings: StreamRun, stream: Stream) -> DeadLetters:
    """Where undecodable records of the stream go."""
    letters = stream.log
    if settings.dead_letters is not None or stream.url.scheme != "kafka":
        place = settings.dead_letters or f"{settings.ring}.dead-letters"
        letters = FileLog.open(place, fsync=FsyncPolicy.always(), create=True)
    return LogDeadLetters(letters, schema=schema_id(settings.row_schema()), limit=settings.rejects)


def pump_for(settings: StreamRun, stream: Stream, ring: StreamRing, letters: DeadLetters) -> Pump:
    """The pump between them.

    Raises:
        SettingsError: a codec that the URL names cannot be had.
    """
    return Pump(
        stream.reader,
        stream.choice.for_schema(ring.schema),
        ring,
        dead_letters=letters,
        commit_rows=settings.commit_rows,
        linger_seconds=settings.linger_seconds,
        flush_seconds=settings.flush_seconds,
        start=settings.start,
        note=f"ring {settings.ring.name}",
    )
