"""What fills a stream that a client learns from: rows of a table in records, with labels that change."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from fedmb.batch.drift import DriftingRows, Phase
from fedmb.batch.minibatch import check_columns
from fedmb.errors import SettingsError
from fedmb.federation.client_source import codecs, table_columns
from fedmb.ingest.producer import Feeder
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of
from fedmb.section import Section
from fedmb.training.task import TaskWithData, load_task


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
    """The table that rows are drawn from: table:task, table:task?share=0&of=4 or table:/data/x.npz."""
    label: str | None = None
    """The integer column whose mix changes; the task's if left out."""
    rows_per_second: float = Field(default=1600.0, gt=0)
    """Pace; inf is as fast as it goes."""
    rows_per_record: int = Field(default=8, ge=1)
    """Rows in one record."""
    records: float = Field(default=math.inf, ge=1)
    """Stop when the stream holds so many records; inf goes on until SIGTERM."""
    labels_before: tuple[int, ...] = ()
    """Labels in the stream until the drift; none named means all that the table has."""
    labels_after: tuple[int, ...] = ()
    """Labels in the stream after it; none named means that there is no drift."""
    drift_record: int = Field(default=1000, ge=1)
    """Number of the record with which the labels change."""

    @model_validator(mode="after")
    def _one_partition_of_another_process(self) -> StreamFeed:
        stream = StreamUrl.parse(self.url)
        if stream.scheme == "memory":
            raise ValueError(f"a feeder's stream must outlive its process, got {self.url}; write file:")
        if len(stream.partitions) > 1:
            raise ValueError(f"a feeder fills one partition, got {list(stream.partitions)}; start one for each")
        return self


def feeder_for(settings: StreamFeed) -> Feeder:
    """A feeder that continues the stream where it ends.

    Raises:
        SettingsError: the task or table cannot be had, or a label does not occur in it.
        ShapeError: the table's columns are not the task's.
    """
    task = load_task(settings.task)
    columns = table_columns(settings.rows, task, seed=settings.seed)
    check_columns(columns, task.schema)
    label = settings.label or (task.label if isinstance(task, TaskWithData) else None)
    if label is None or label not in columns:
        raise SettingsError(
            f"label must be a column of the rows, {sorted(columns)}, got {label!r}; set it", key="label"
        )
    before = settings.labels_before or tuple(int(one) for one in np.unique(columns[label]))
    phases = [Phase(0, before)]
    if settings.labels_after:
        phases.append(Phase(settings.drift_record, settings.labels_after))
    drifting = DriftingRows(
        columns,
        label=label,
        phases=phases,
        rows_per_record=settings.rows_per_record,
        seed=settings.seed,
        stream=settings.name,
    )
    stream = StreamUrl.parse(settings.url)
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
        records=drifting,
        codec=codecs(task)[0],
        rows_per_second=settings.rows_per_second,
        max_records=settings.records,
    )
