"""A client that is a process of its own for each message: how it learns what its settings and the server say."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedmb.errors import SettingsError
from fedmb.federation.client import learnt
from fedmb.federation.client_source import open_source
from fedmb.federation.initial_model import Begun
from fedmb.ingest.group_source import GroupSource
from fedmb.replay.ring_source import RingSource
from fedmb.replay.served_source import REPLAY
from fedmb.training.absent_source import AbsentSource, described
from fedmb.training.device import computing, training_device
from fedmb.training.distributed import Ranks
from fedmb.training.local_update import LocalUpdate
from fedmb.training.named_object import check_code
from fedmb.training.parameters import first_model
from fedmb.training.recipe import Training
from fedmb.training.task import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.federation.client_settings import ClientSettings
    from fedmb.federation.client_source import ClientSource
    from fedmb.federation.initial_model import Beginning
    from fedmb.federation.wire import Instruction
    from fedmb.training.task import Task
    from fedmb.update import Update


log = logging.getLogger(__name__)


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
            privacy=settings.privacy,
        )
    except BaseException:
        source.close()
        raise


def begun(settings: ClientSettings, beginning: Beginning) -> Begun:
    """The model that a run begins with, to the bit as a server with torch builds it, and what of it is trained.

    Raises:
        SettingsError: the task cannot be imported, or does not bear the server's way to train.
    """
    asked = beginning.training
    build = None if asked is None else _agreed(asked, settings.training).build_model
    return Begun(*first_model(load_task(settings.task), beginning.seed, build=build))


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
