"""What fills a stream that a client learns from: rows in records, with labels that change where that is wanted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from fedmb.batch.drift import DriftingRows, Phase
from fedmb.batch.minibatch import check_columns
from fedmb.errors import SettingsError
from fedmb.federation.client_source import table_columns
from fedmb.federation.stream_rows import EvenRows, GeneratedRows, RowsInOrder, is_function, load_function
from fedmb.ingest.codec import RowCodec
from fedmb.ingest.codec_choice import CodecName, codecs_in
from fedmb.ingest.producer import Feeder
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of
from fedmb.section import Section
from fedmb.telemetry.watching_section import Watching
from fedmb.training.task import TaskWithData, load_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.batch.minibatch import Columns
    from fedmb.training.task import Task


class StreamFeed(Section):
    """Everything that `fedmb stream feed` can be told."""

    url: str = Field(min_length=1)
    """The stream, like file:///var/lib/fedmb/log?topic=rows; its log is made when there is none."""
    seed: int = Field(default=0, ge=0)
    """Every record follows from it, the stream's name and the record's number."""
    name: str = "stream"
    """Name of the stream; two streams of one seed and different names draw different rows."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; its schema is the records'."""
    rows: str = "table:task"
    """Where rows come from: table:task, table:task?share=0&of=4, table:/data/x.npz, or module:function: a function of
    the record's number, or a generator of records, that gives columns."""
    order: Literal["drawn", "once"] = "drawn"
    """Whether rows of a table are drawn without end, or sent once in the table's order."""
    codec: CodecName | None = None
    """Codec of the records; the one that the URL names, or packed, if left out."""
    label: str | None = None
    """The integer column whose mix changes; the task's if left out, and rows are drawn evenly where it has none."""
    rows_per_second: float = Field(default=1600.0, gt=0)
    """Pace; inf is as fast as it goes."""
    rows_per_record: int = Field(default=8, ge=1)
    """Rows in one record; codecs that hold one row, like sample and json, get one."""
    records: float = Field(default=math.inf, ge=1)
    """Stop when the stream holds so many records; inf goes on until SIGTERM."""
    labels_before: tuple[int, ...] = ()
    """Labels in the stream until the drift; none named means all that the table has."""
    labels_after: tuple[int, ...] = ()
    """Labels in the stream after it; none named means that there is no drift."""
    drift_record: int = Field(default=1000, ge=1)
    """Number of the record with which the labels change."""
    watching: Watching | None = None
    """Where the feeder may be watched; left out, nowhere."""

    @model_validator(mode="after")
    def _one_partition_of_another_process(self) -> StreamFeed:
        stream = StreamUrl.parse(codecs_in(self.url)[0])
        if stream.scheme == "memory":
            raise ValueError(f"a feeder's stream must outlive its process, got {self.url}; write file:")
        if len(stream.partitions) > 1:
            raise ValueError(f"a feeder fills one partition, got {list(stream.partitions)}; start one for each")
        return self


def feeder_for(settings: StreamFeed) -> Feeder:
    """A feeder that continues the stream where it ends.

    Raises:
        SettingsError: the task, table or function cannot be had, or a label does not occur in it.
        ShapeError: the table's columns are not the task's.
    """
    task = load_task(settings.task)
    plain, choice = codecs_in(settings.url)
    if settings.codec is not None:
        choice = choice.model_copy(update={"codecs": (settings.codec,)})
    codec = choice.for_schema(task.schema)[0]
    rows = _rows(settings, task, singly=isinstance(codec, RowCodec))
    stream = StreamUrl.parse(plain)
    log = open_log(stream)
    partitions = partitions_of(log, stream, absent=(0,))
    if len(partitions) > 1:
        raise SettingsError(
            f"a feeder fills one partition, and {stream.topic} has {len(partitions)}; name one with &partition=",
            key="url",
        )
    return Feeder(
        log,
        stream.topic,
        partitions[0],
        records=rows,
        codec=codec,
        rows_per_second=settings.rows_per_second,
        max_records=settings.records,
    )


def _rows(settings: StreamFeed, task: Task, *, singly: bool) -> Callable[[int], Columns]:
    """Columns of each record, by its number."""
    rows_per_record = 1 if singly else settings.rows_per_record
    drifts = bool(settings.labels_before or settings.labels_after)
    if is_function(settings.rows):
        if drifts or settings.order != "drawn":
            raise SettingsError(
                f"a function decides itself what comes when, got labels or an order beside {settings.rows}; leave them "
                "out",
                key="rows",
            )
        function = load_function(settings.rows)
        return GeneratedRows(function, task.schema, singly=singly, name=settings.rows)
    columns = table_columns(settings.rows, task, seed=settings.seed)
    check_columns(columns, task.schema)
    if settings.order == "once":
        if drifts:
            raise SettingsError(
                "rows in their order have the labels they have, got others; leave them out", key="order"
            )
        return RowsInOrder(columns, rows_per_record=rows_per_record)
    label = settings.label or (task.label if isinstance(task, TaskWithData) else None)
    if label is None and not drifts:
        return EvenRows(columns, rows_per_record=rows_per_record, seed=settings.seed, stream=settings.name)
    if label is None or label not in columns:
        raise SettingsError(
            f"label must be a column of the rows, {sorted(columns)}, got {label!r}; set it", key="label"
        )
    before = settings.labels_before or tuple(int(one) for one in np.unique(columns[label]))
    phases = [Phase(0, before)]
    if settings.labels_after:
        phases.append(Phase(settings.drift_record, settings.labels_after))
    return DriftingRows(
        columns,
        label=label,
        phases=phases,
        rows_per_record=rows_per_record,
        seed=settings.seed,
        stream=settings.name,
    )
