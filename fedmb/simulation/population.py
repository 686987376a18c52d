"""The clients of a simulation: private tables, drifting streams, and the feeders that fill them."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from pydantic import Field, model_validator

from fedmb.aggregation.compress import Wire
from fedmb.aggregation.rule_choice import Aggregation
from fedmb.batch.dataset import column_of, load_dataset
from fedmb.batch.drift import DriftingRows, Phase
from fedmb.batch.rows import Rows
from fedmb.batch.sharding import dirichlet_shares
from fedmb.federation.checkpoint import Checkpoints
from fedmb.federation.client_source import Streaming, codecs, open_source
from fedmb.federation.replaying import Replaying
from fedmb.federation.rounds import Rounds
from fedmb.federation.strategy_choice import check_together
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.producer import Feeder
from fedmb.section import Section
from fedmb.seeding import generator
from fedmb.simulation.client_kinds import Private, Slow, Streamed
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.device import training_device
from fedmb.training.local_update import LocalUpdate
from fedmb.training.recipe import Training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmb.batch.dataset import MapDataset
    from fedmb.batch.minibatch import Columns
    from fedmb.batch.source import BatchSource
    from fedmb.training.task import TaskWithData

TOPIC = "rows"


class Simulation(Section):
    """Everything that `fedmb simulate` can be told."""

    seed: int = Field(default=0, ge=0)
    """Every random draw of the run follows from it."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; the class brings its rows (fedmb.training.task.TaskWithData)."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch; with another number the last bits of a result may differ."""
    device: str = "cpu"
    """Where all clients train: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    rounds: Rounds = Rounds(count=30)
    wire: Wire = Wire()
    aggregation: Aggregation = Aggregation()
    checkpoints: Checkpoints = Checkpoints()
    training: Training = Training(steps=20, learning_rate=LearningRate(rate=0.2))
    private: Private = Private()
    streamed: Streamed = Streamed()
    slow: Slow = Slow()
    streaming: Streaming = Streaming()
    replay: Replaying = Replaying()
    rows: Rows = Rows()
    privacy: ClientPrivacy = ClientPrivacy()

    @model_validator(mode="after")
    def _some_client(self) -> Simulation:
        clients = self.private.clients + self.streamed.clients
        if clients == 0:
            raise ValueError("a simulation needs a client, got private.clients = 0 and streamed.clients = 0; set one")
        if self.slow.clients >= clients:
            raise ValueError(
                f"somebody must be in time, got slow.clients = {self.slow.clients} of {clients} clients; lower it"
            )
        if self.private.dataset is not None and (self.private.clients == 0 or self.private.tables > 1):
            raise ValueError(
                f"a dataset is dealt out in one part a client, got private.clients = {self.private.clients} and "
                f"private.tables = {self.private.tables}; set clients to 1 or more and tables to 1"
            )
        self.rounds.check_against(clients, key="private.clients + streamed.clients")
        self.aggregation.check_against(clients, self.rounds.fraction_train, key="private.clients + streamed.clients")
        check_together(self.aggregation, self.training, self.wire, self.rounds)
        self.rows.check_mixed(self.private.tables if self.private.clients else 0)
        if self.private.dataset is not None:
            self.rows.check_against("dataset")
        if self.streamed.clients:
            self.rows.check_against("stream")
        if self.streamed.clients and self.privacy.is_on and self.privacy.unit == "example" and self.replay.share:
            raise ValueError(
                f"privacy example counts every row once, got replay.share {self.replay.share:g} of streamed clients; "
                "set it to 0, or privacy.unit to update"
            )
        if math.isinf(self.training.steps) and self.streamed.clients:
            raise ValueError("streamed clients need training.steps, which says when the stream drifts; set it")
        return self

    def drift_record(self) -> int:
        """Number of the record with which the label mix changes."""
        if self.streamed.drift_record is not None:
            return self.streamed.drift_record
        rounds = Rounds().count if self.rounds.is_endless else self.rounds.count
        size = self.training.sizing.size  # policies start from it; one that changes it moves the drift in time
        fresh_rows = float(rounds) * self.training.steps * (size - round(size * self.replay.share))
        return max(1, round(fresh_rows * self.streamed.drift_at / self.streamed.rows_per_record))


class Population:
    """All clients of one simulation, in this process, with their state under one directory.

    Args:
        settings: how many clients of which kind.
        task: brings the rows.
        state: directory of the logs, rings and dead letters.
    """

    def __init__(self, settings: Simulation, task: TaskWithData, state: Path) -> None:
        self.settings = settings
        self.task = task
        self.trainers: dict[str, LocalUpdate] = {}
        self._state = state
        self._streams: list[LogSource] = []
        self._feeders: list[Feeder] = []
        self._feeding: list[Future[int]] = []
        tables, pools = self._divided()
        for number, columns in enumerate(tables):
            name = f"private-{number}"
            self._add(name, settings.rows.mixed(self._by_label(columns), seed=settings.seed, client=name, task=task))
        if settings.private.dataset is not None:
            self._deal(load_dataset(settings.private.dataset))
        for number, columns in enumerate(pools):
            self._add_streamed(f"stream-{number}", columns, state)

    def _divided(self) -> tuple[list[Columns], list[Columns]]:
        """Rows of each private table, label-skewed, and the rows that each stream draws from; no row is in two."""
        rows = self.task.train_rows()
        labels = rows[self.task.label]
        private, streamed = self.settings.private, self.settings.streamed
        cut = round(len(labels) * private.share) if streamed.clients else len(labels)
        tables: list[Columns] = []
        if private.dataset is not None:
            cut = 0
        elif private.clients:
            random = generator(self.settings.seed, "shares")
            shares = dirichlet_shares(labels[:cut], private.clients, private.alpha, random)
            tables = [{name: array[index] for name, array in rows.items()} for index in shares]
        pools: list[Columns] = [
            {name: array[cut + number :: streamed.clients] for name, array in rows.items()}
            for number in range(streamed.clients)
        ]
        return tables, pools

    def _deal(self, dataset: MapDataset) -> None:
        """Give each private client its label-skewed share of a dataset's rows."""
        settings, schema, private = self.settings, self.task.schema, self.settings.private
        labels = column_of(dataset, self.task.label, schema)
        shares = dirichlet_shares(labels, private.clients, private.alpha, generator(settings.seed, "shares"))
        for number, index in enumerate(shares):
            name = f"private-{number}"
            self._add(name, settings.rows.fetched(dataset, schema, rows=index, seed=settings.seed, client=name))

    def _by_label(self, columns: Columns) -> dict[str, Columns]:
        """The client's rows in `private.tables` tables, each with labels of its own."""
        labels = columns[self.task.label]
        tables: dict[str, Columns] = {}
        for number, group in enumerate(np.array_split(np.unique(labels), self.settings.private.tables)):
            index = np.flatnonzero(np.isin(labels, group))
            if len(index):
                tables[f"table-{number}"] = {name: array[index] for name, array in columns.items()}
        return tables

    def _add(self, name: str, source: BatchSource, stream: LogSource | None = None) -> None:
        self.trainers[name] = LocalUpdate(
            self.task,
            source,
            self.settings.training,
            client=name,
            seed=self.settings.seed,
            directory=self._state / name,
            device=training_device(self.settings.device),
            stream=stream,
            privacy=self.settings.privacy,
        )

    def _add_streamed(self, name: str, pool: Columns, state: Path) -> None:
        settings, streamed = self.settings, self.settings.streamed
        # An id of its own makes ledgers of two runs of one seed equal; nothing needs fsync, since a feeder would
        # write a lost record again, bit for bit.
        log = FileLog.open(state / name / "log", id=name, fsync=FsyncPolicy.never(), create=True)
        opened = open_source(
            f"file:{quote(str(log.path))}?topic={TOPIC}",
            self.task,
            client=name,
            seed=settings.seed,
            state=state / name,
            streaming=settings.streaming,
            replaying=settings.replay,
            rows=settings.rows,
        )
        stream = opened.stream
        assert isinstance(stream, LogSource), "a file: URL opens a log"
        drifting = DriftingRows(
            pool,
            label=self.task.label,
            phases=[Phase(0, streamed.labels_before), Phase(settings.drift_record(), streamed.labels_after)],
            rows_per_record=streamed.rows_per_record,
            seed=settings.seed,
            stream=name,
        )
        feeder = Feeder(
            log,
            TOPIC,
            records=drifting,
            codec=codecs(self.task)[0],
            rows_per_second=streamed.rows_per_second,
            lead_records=max(1, streamed.lead_rows // streamed.rows_per_record),
            consumed=lambda: taken_records(stream),
        )
        self._add(name, opened.source, stream)
        self._streams.append(stream)
        self._feeders.append(feeder)

    def trainer(self, client: str) -> LocalUpdate:
        """The client's half of a round; raises what a feeder failed of, as `lag` does."""
        self._raise_failure()
        return self.trainers[client]

    def lag(self) -> int:
        """Records that the streams hold beyond what was learnt; raises where a feeder failed: the round has too few."""
        self._raise_failure()
        return sum(sum(stream.lag().values()) for stream in self._streams)

    def set_aside(self) -> int:
        """Records that could not be decoded."""
        return sum(stream.statistics().rejected for stream in self._streams)

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Feeders run, each in a thread of its own, while the body does.

        Raises:
            FedmbError, OSError: a feeder failed; told when the open round ends.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=max(1, len(self._feeders)), thread_name_prefix="feeder") as pool:
            self._feeding = [pool.submit(feeder.run, stop) for feeder in self._feeders]
            for feeding, stream in zip(self._feeding, self._streams, strict=True):
                feeding.add_done_callback(partial(_hurry, stream))
            try:
                yield
            finally:
                stop.set()
                wait(self._feeding)
                self._raise_failure()

    def _raise_failure(self) -> None:
        for feeding in filter(Future.done, self._feeding):
            feeding.result()

    def close(self) -> None:
        """Close every source."""
        for trainer in self.trainers.values():
            trainer.source.close()


def _hurry(stream: LogSource, feeding: Future[int]) -> None:
    """Let nobody wait for rows of a feeder that has failed."""
    if feeding.exception() is not None:
        stream.limit_waiting(0.0)


def taken_records(stream: LogSource) -> int:
    """Offset of the next record that a stream of one partition has not used."""
    ledger: dict[str, list[int]] = stream.position()["ledger"]
    return max(position[0] for position in ledger.values())
