"""Where one client's mini-batches come from, chosen by a URL.

table:/data/ward.npz                   a private table at rest (npz, npy, safetensors, csv, parquet)
table:/data/a.npz table:/data/b.npz    several tables, mixed in every batch
table:task?share=0&of=4                one label-skewed share of the task's own rows
dataset:my.module:Scans?root=/data     a map-style dataset, torch's included, called with what follows the ?
file:///var/log/fedmb?topic=digits     a stream; its rows are blended with replayed ones
ring:/var/lib/fedmb/rows.ring          a stream that a daemon on this machine reads into a ring; blended likewise
replay://127.0.0.1:8400/site-0         a table of a replay service, which actors fill; see fedmb.replay.served_source

Where `[labels]` names a stream, the client's own holds questions, and its rows are those that were answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field

from fedmb.batch.dataset import DATASET, load_dataset
from fedmb.batch.files import load_table
from fedmb.batch.minibatch import Columns, check_columns
from fedmb.batch.sharding import dirichlet_shares
from fedmb.errors import SettingsError
from fedmb.federation.label_source import Labels
from fedmb.ingest.codec import schema_id
from fedmb.ingest.codec_choice import CodecChoice, codecs_in
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.group_source import GroupSource
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.log import EMPTY_SECONDS
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.reject_limit import RejectLimit
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of
from fedmb.replay.ring_source import RingSource
from fedmb.replay.served_source import REPLAY, served_source
from fedmb.section import Section
from fedmb.seeding import generator
from fedmb.training.task import Task, TaskWithData

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.batch.minibatch import Schema
    from fedmb.batch.rows import Rows
    from fedmb.batch.source import BatchSource
    from fedmb.federation.replaying import Replaying
    from fedmb.ingest.codec import Codec
    from fedmb.ingest.log import Log
    from fedmb.training.delayed_labels import DelayedLabels

_TABLE_KEYS = {"share", "of", "alpha"}
RING = "ring:"


class Streaming(Section):
    """How a stream is cut into mini-batches."""

    linger_seconds: float = Field(default=math.inf, ge=0)
    """How long a batch that has rows waits for more; inf closes batches by count alone, the same in every run."""
    patience_seconds: float = Field(default=60.0, gt=0)
    """How long a silent stream is waited for before the client's round ends with what it has."""
    rejects: RejectLimit = RejectLimit()
    """How many records may be set aside before the client stops learning and says so."""


@dataclass(frozen=True, slots=True)
class ClientSource:
    """A client's source, with the stream inside it where there is one."""

    source: BatchSource
    stream: LogSource | GroupSource | RingSource | DelayedLabels | None = None
    labels: DelayedLabels | None = None
    """The stream, where its labels come later."""


def codecs(task: Task, choice: CodecChoice = CodecChoice()) -> Sequence[Codec]:  # noqa: B008  # frozen
    """The codecs of a task's records; records that name none are of the first, packed unless `choice` says otherwise.

    Raises:
        SettingsError: a codec that was chosen cannot be had.
    """
    return choice.for_schema(task.schema)


def open_source(
    url: str,
    task: Task,
    *,
    client: str,
    seed: int,
    state: Path,
    streaming: Streaming,
    replaying: Replaying,
    rows: Rows,
    labels: Labels = Labels(),  # noqa: B008  # frozen
) -> ClientSource:
    """The source that `url` names.

    Args:
        url: as in the module's head.
        task: its schema is what rows must follow.
        client: name of the client; keys the order of its rows and its replay draws.
        seed: seed of the run.
        state: the client's own directory, for its replay ring and dead letters.
        streaming: how a stream is cut.
        replaying: what is remembered, and how much of it is replayed.
        rows: how a table is cut, and how far ahead batches are made.
        labels: where labels come from that are not in the stream's rows.

    Raises:
        SettingsError: the URL breaks a rule, or labels that come later contradict it.
        ShapeError: a table's columns are not the task's, or a key is no whole number.
        AlreadyOwned: another live process has the client's ring, or reads the stream's.
    """
    if labels.source is not None:
        _check_late(url, labels.source, rows)
    if url.startswith("table:"):
        tables = {one: table_columns(one, task, seed=seed, mapped=rows.mapped) for one in url.split()}
        for columns in tables.values():
            check_columns(columns, task.schema)
        return ClientSource(rows.mixed(tables, seed=seed, client=client, task=task))
    if url.startswith(DATASET):
        return ClientSource(rows.fetched(load_dataset(url), task.schema, seed=seed, client=client))
    rows.check_against("stream")
    if url.startswith(REPLAY):
        return ClientSource(
            served_source(url, task.schema, client=client, seed=seed, patience_seconds=streaming.patience_seconds)
        )
    replaying.check_against(task, rows)
    stream: LogSource | GroupSource | RingSource | DelayedLabels
    late = None
    if labels.source is not None:
        stream = late = labelled_source(url, labels, task, client, state, streaming)
    elif url.startswith(RING):
        stream = ring_source(url, task, streaming, rows)
    else:
        stream = log_source(url, task.schema, client, state, streaming)
    blended = replaying.blended(stream, task, client=client, seed=seed, state=state)
    return ClientSource(rows.ahead(blended), stream, late)


def labelled_source(
    url: str, labels: Labels, task: Task, client: str, state: Path, streaming: Streaming
) -> DelayedLabels:
    """The questions that a URL names, joined with their answers.

    Raises:
        SettingsError: a URL breaks a rule, or questions and answers contradict each other.
        ShapeError: the key is no whole number.
    """
    assert labels.source is not None, "asked for where there is one"
    asked, answered = labels.schemas(task)
    patience_seconds = streaming.patience_seconds
    # What is known to be there is waited for by other rules than what may come.
    known = streaming.model_copy(update={"linger_seconds": math.inf, "patience_seconds": EMPTY_SECONDS})
    questions = log_source(url, asked, client, state, known)
    try:
        answers = log_source(labels.source, answered, f"{client}-labels", state / "labels", streaming)
    except BaseException:
        questions.close()
        raise
    return labels.joined(task, questions, answers, patience_seconds=patience_seconds)


def _check_late(url: str, answers: str, rows: Rows) -> None:
    """Refuse labels that come later where rows are no records of a log, or are made before their turn."""
    for one, key in ((url, "source"), (answers, "labels.source")):
        if one.startswith(("table:", DATASET, RING, REPLAY)):
            raise SettingsError(
                f"labels that come later, and the rows they belong to, must be read from a log, got {one!r}; name a "
                "kafka: or file: stream, or leave labels.source out",
                key=key,
            )
    if rows.prefetch:
        raise SettingsError(
            f"rows whose labels come later are not made ahead, got rows.prefetch = {rows.prefetch}: the model must say "
            "what it expects as it stands; set rows.prefetch to 0",
            key="rows.prefetch",
        )


def log_source(url: str, schema: Schema, client: str, state: Path, streaming: Streaming) -> LogSource | GroupSource:
    """The stream that a URL names, read by this process; with a group and no partition, what its group gives it.

    Raises:
        SettingsError: the URL breaks a rule.
    """
    url, choice = codecs_in(url)
    named = StreamUrl.parse(url)
    log = open_log(named)
    letters: Log = log  # a cluster keeps a topic's dead letters beside it
    if named.scheme != "kafka":
        place = state / "dead-letters"
        letters = FileLog.open(place, id=f"{client}-dead-letters", fsync=FsyncPolicy.always(), create=True)
    dead_letters = LogDeadLetters(letters, schema=schema_id(schema), limit=streaming.rejects)
    linger_seconds, patience_seconds = streaming.linger_seconds, streaming.patience_seconds
    if isinstance(log, KafkaLog) and log.connection.group and not named.partitions:
        return GroupSource(
            log.as_member(client).reader(named.topic, ()),
            f"{log.id}/{named.topic}",
            choice.for_schema(schema),
            dead_letters=dead_letters,
            linger_seconds=linger_seconds,
            patience_seconds=patience_seconds,
        )
    return LogSource(
        log.reader(named.topic, partitions_of(log, named)),
        choice.for_schema(schema),
        dead_letters=dead_letters,
        linger_seconds=linger_seconds,
        patience_seconds=patience_seconds,
    )


def ring_source(url: str, task: Task, streaming: Streaming, rows: Rows) -> RingSource:
    """The ring that a `ring:` URL names; need not exist yet.

    Raises:
        SettingsError: the URL breaks a rule, or rows are to be made ahead.
        ShapeError: the ring's columns are not the task's.
        AlreadyOwned: another live process reads it.
    """
    parts = urlsplit(url)
    if not parts.path or parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"a ring is written ring:/path/to/ring, got {url!r}; name the file that the daemon fills")
    if rows.prefetch:
        raise SettingsError(
            f"rows of a ring are not made ahead, got rows.prefetch = {rows.prefetch}: they are in memory already, and "
            "a seek back would give up rows that no stored model has learnt; set rows.prefetch to 0",
            key="rows.prefetch",
        )
    return RingSource(
        unquote(parts.path),
        task.schema,
        linger_seconds=streaming.linger_seconds,
        patience_seconds=streaming.patience_seconds,
    )


def table_columns(url: str, task: Task, *, seed: int, mapped: bool = False) -> Columns:
    """Columns of a `table:` URL; `mapped` leaves a file's rows on disk where its format allows it.

    Raises:
        SettingsError: the URL breaks a rule, or asks for rows of a task that has none.
    """
    parts = urlsplit(url)
    if parts.scheme != "table":
        raise SettingsError(
            f"several sources of one client are all tables, got {url!r}; give a stream a client of its own"
        )
    if parts.path != "task":
        return load_table(Path(unquote(parts.path)), schema=task.schema, mapped=mapped)
    if not isinstance(task, TaskWithData):
        raise SettingsError(
            f"table:task needs a task that brings its rows, {type(task).__name__} does not; "
            "name a file, like table:/data/ward.npz"
        )
    query = dict(parse_qsl(parts.query))
    try:
        share, of, alpha = int(query.pop("share", "0")), int(query.pop("of", "1")), float(query.pop("alpha", "0.5"))
    except ValueError as error:
        raise SettingsError(f"share and of are whole numbers, alpha is a number, got {parts.query!r}") from error
    if query or not 0 <= share < of:
        raise SettingsError(
            f"a share is written table:task?share=0&of=4 with {sorted(_TABLE_KEYS)}, 0 <= share < of, got {url!r}"
        )
    rows = task.train_rows()
    index = dirichlet_shares(rows[task.label], of, alpha, generator(seed, "shares"))[share]
    return {name: array.take(index, axis=0) for name, array in rows.items()}
