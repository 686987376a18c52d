"""A client that is a process of its own for each message: its settings, and how it learns.

The server owns what decides the model: seed, training, positions; they come with each instruction. The client owns
what is its site's business: where its rows come from, how much memory and how many threads a step may use, and how
its stream is cut and replayed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from fedmb.batch.rows import Rows
from fedmb.errors import SettingsError
from fedmb.federation.client import learnt
from fedmb.federation.client_source import Streaming, open_source
from fedmb.federation.label_source import Labels
from fedmb.federation.replaying import Replaying
from fedmb.ingest.group_source import GroupSource
from fedmb.replay.ring_source import RingSource
from fedmb.replay.served_source import REPLAY
from fedmb.section import Section
from fedmb.telemetry.watching_section import Watching
from fedmb.training.absent_source import AbsentSource, described
from fedmb.training.device import computing, training_device
from fedmb.training.distributed import Ranks
from fedmb.training.local_update import LocalUpdate
from fedmb.training.named_object import check_code
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.task import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.federation.client_source import ClientSource
    from fedmb.federation.initial_model import Beginning
    from fedmb.federation.wire import Instruction
    from fedmb.training.task import Task
    from fedmb.update import Arrays, Update


log = logging.getLogger(__name__)


class ClientSettings(Section):
    """Everything that `fedmb client` can be told."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the client, its own in the federation: the server keeps the client's position in its data under it."""
    source: str = Field(min_length=1)
    """Where rows come from: table:/x.npz, table:task?share=0&of=4 or dataset:module:Class, or a stream:
    kafka://host:9092/topic, ring:/x.ring (a daemon's) or file:///log?topic=rows; or what actors append to a replay
    service: replay://host:8400/table."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; the same as the server's."""
    state: Path | None = None
    """Directory of the replay ring and of records that were set aside, the client's own; state/NAME if left out."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch; with another number the last bits of a result may differ."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    devices: int = Field(default=1, ge=1)
    """Devices that step as one: a process for each, with its GPU, or with its threads on the CPU."""
    resident: bool = True
    """Keep a trainer process beside the node, so that torch and the model are not loaded for each message; without it
    each message trains in a process of its own, to the same bits."""
    training: Training = Training()
    """How to train where the server does not say; its micro_size, which only costs, holds in any case."""
    streaming: Streaming = Streaming()
    labels: Labels = Labels()
    replay: Replaying = Replaying()
    rows: Rows = Rows()
    watching: Watching = Watching()

    @model_validator(mode="after")
    def _mixed(self) -> ClientSettings:
        self.rows.check_mixed(sum(one.startswith("table:") for one in self.source.split()))
        return self

    @model_validator(mode="after")
    def _not_one_of_several(self) -> ClientSettings:
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"several devices are cpu, cuda or auto, got devices {self.devices} and device {self.device}; leave "
                "out its number"
            )
        return self

    @property
    def directory(self) -> Path:
        """Where the client keeps what it needs between messages."""
        return self.state or Path("state") / self.name


def train(settings: ClientSettings, instruction: Instruction, ranks: Ranks | None = None) -> Update:
    """Learn as the server asks, with a source opened for this message alone.

    The source is closed before this returns: the next message's process may start while this one still ends, and the
    replay ring has one owner. On several ranks every one calls this alike, and rank 0's update counts.

    Raises:
        FedmbError: settings, data or the instruction break a rule, or the model diverged.
    """
    with computing(threads=settings.threads, repeatable=True):
        trainer = trainer_for(settings, seed=instruction.seed, training=instruction.training, ranks=ranks)
        if trainer.training.overlap_steps:
            log.warning("no steps ahead client=%s reason=this process ends with its message", settings.name)
        try:
            return learnt(trainer, instruction)
        finally:
            trainer.source.close()


def trainer_for(
    settings: ClientSettings,
    *,
    seed: int,
    training: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> LocalUpdate:
    """The client's training, with its source opened; the caller closes the source.

    Args:
        settings: the client's own.
        seed: seed of the run.
        training: the server's way to train, a `Training` as a table; None leaves the client's.
        ranks: this process among those of the client; every one of them calls this, and rank 0 opens the source.

    Raises:
        SettingsError: the task cannot be imported, this machine has no such device, or the source's URL breaks a rule.
        ShapeError: a table's columns are not the task's.
        AlreadyOwned: another live process has the client's ring.
    """
    ranks = ranks or Ranks(device=training_device(settings.device))
    task = load_task(settings.task)
    chosen = settings.training if training is None else _agreed(training, settings.training)
    opened = _opened(settings, task, seed) if ranks.is_first else None
    description = ranks.told(described(opened.source) if opened else None)
    source = opened.source if opened else AbsentSource(description)
    try:
        return LocalUpdate(
            task,
            source,
            chosen,
            client=settings.name,
            seed=seed,
            directory=settings.directory if ranks.is_first else None,
            stream=opened.stream if opened else None,
            labels=opened.labels if opened else None,
            ranks=ranks,
        )
    except BaseException:
        source.close()
        raise


def begun(settings: ClientSettings, beginning: Beginning) -> Arrays:
    """The model that a run begins with, to the bit as a server with torch builds it.

    Raises:
        SettingsError: the task cannot be imported, or does not bear the server's way to train.
    """
    asked = beginning.training
    build = None if asked is None else _agreed(asked, settings.training).build_model
    return initial_arrays(load_task(settings.task), beginning.seed, build=build)


def held_back(settings: ClientSettings, trainer: LocalUpdate) -> str | None:
    """Why no step may be taken before the next message, in words; None where it may."""
    if settings.devices > 1:
        return "its devices start for each message"
    if trainer.labels is not None:
        return "labels that come later are scored by the model of their round"
    if isinstance(trainer.stream, GroupSource):
        return "a group may give its partitions to another client"
    if isinstance(trainer.stream, RingSource):
        return "a ring keeps rows until the source is sought behind them"
    if settings.source.startswith(REPLAY):
        return "a replay service draws anew after each seek"
    return None


def _agreed(asked: Mapping[str, Any], own: Training) -> Training:
    """The server's way to train, with the client's micro-batch where it has one."""
    check_code(asked, {"optimizer": own.optimizer, "dropout": own.dropout})
    try:
        return Training.model_validate({**asked, "micro_size": own.micro_size or asked.get("micro_size")})
    except ValidationError as error:
        rules = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise SettingsError(
            f"a server's way to train must agree with its client's micro_size {own.micro_size}: {rules}", key="training"
        ) from error


def _opened(settings: ClientSettings, task: Task, seed: int) -> ClientSource:
    return open_source(
        settings.source,
        task,
        client=settings.name,
        seed=seed,
        state=settings.directory,
        streaming=settings.streaming,
        replaying=settings.replay,
        rows=settings.rows,
        labels=settings.labels,
    )
