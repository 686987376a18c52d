"""What does not go with a client's privacy: refused by name, before a row is learnt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmb.batch.loss_listener import listener_of
from fedmb.batch.poisson import PoissonSource
from fedmb.batch.replay_share import replay_share
from fedmb.errors import SettingsError
from fedmb.ledger import groups_within
from fedmb.training.drift import Scoring
from fedmb.training.travelling import travelling

if TYPE_CHECKING:
    from torch import nn

    from fedmb.batch.source import BatchSource
    from fedmb.sizing.pacing import Pacing
    from fedmb.training.client_privacy import ClientPrivacy
    from fedmb.training.recipe import Training

TABLE = {"epoch", "cursor"}
"""Names in the position of a table that is learnt in passes."""


def quiet(training: Training) -> Training:
    """The same training without scores of rows, which would be told."""
    return training.model_copy(update={"prequential": Scoring(window=0)})


def check_training(privacy: ClientPrivacy, training: Training, paced: Pacing) -> None:
    """Refuse ways to train that tell of rows beside what is noised, or whose noise could not be counted.

    Raises:
        SettingsError: something does.
    """
    guard = training.guard
    found = {
        "training.control_variates": training.control_variates,
        f"training.overlap_steps {training.overlap_steps}": training.overlap_steps > 0,
        f"training.noise_every {training.noise_every}": training.noise_every > 0,
        f"training.drift.detector {training.drift.detector}": training.drift.detector != "off",
        f"training.sizing.kind {training.sizing.kind}": bool(paced.size.reads),
        f"training.learning_rate.scaling {training.learning_rate.scaling}": bool(paced.follow.reads),
        f"training.precision {training.precision}": training.precision == "fp16",
    }
    if privacy.unit == "update":
        found |= {
            "training.guard.skip_non_finite": guard.skip_non_finite,
            f"training.guard.spike_factor {guard.spike_factor:g}": math.isfinite(guard.spike_factor),
        }
    else:
        budgets = (training.steps, training.samples, training.epochs)
        found |= {
            f"training.precision {training.precision}": training.precision != "fp32",
            'training.micro_size "auto"': training.micro_size == "auto",
            "no training.steps, samples or epochs": math.isinf(min(budgets)),
        }
    if wrong := [name for name, is_wrong in found.items() if is_wrong]:
        raise SettingsError(
            f"a private client ({privacy.unit}) tells its server nothing but noised numbers, got {', '.join(wrong)}; "
            "leave it out of the run's settings, or this client out of the run",
            key="privacy",
        )


def check_model(training: Training, model: nn.Module) -> None:
    """Refuse running statistics that would have to travel: they are means of rows, and are not noised.

    Raises:
        SettingsError: the model has such.
    """
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = travelling(model, training.norm_travels) - trained
    if found and training.norm != "frozen":
        raise SettingsError(
            f"a private model must have no running statistics that travel, got {min(found)!r}; set training.norm to "
            "group or layer, or training.norm_travels to fedbn",
            key="training.norm",
        )


def check_source(source: BatchSource) -> None:
    """Refuse rows that are drawn by what they cost: which ones come next would tell of them.

    Raises:
        SettingsError: they are.
    """
    if listener_of(source) is not None:
        raise SettingsError(
            "a private client's rows are not drawn by what they cost, got a memory that is told losses; set "
            "replay.memory to newest, reservoir or balanced",
            key="replay.memory",
        )


def check_alone(*, ranks: int, has_late_labels: bool) -> None:
    """Refuse a private client of several devices, or with labels that come later.

    Raises:
        SettingsError: it is one.
    """
    if ranks > 1:
        raise SettingsError(
            f"a private client steps in one process, which noises, got {ranks} devices; set devices to 1", key="devices"
        )
    if has_late_labels:
        raise SettingsError(
            "a private client tells no position that holds what a model said of rows, got labels that come later; "
            "leave labels.source out",
            key="labels.source",
        )


def counted_as(source: BatchSource) -> str:
    """How often a row of a source is in a step: by chance, once in a pass, or once in all.

    Raises:
        SettingsError: nobody can tell.
    """
    position = source.position()
    if isinstance(source, PoissonSource):
        return "poisson"
    if math.isfinite(source.examples_per_epoch) and position.keys() == TABLE:
        return "pass"
    share = replay_share(source)
    if math.isinf(source.examples_per_epoch) and not groups_within(position) and (share is None or share.usual == 0):
        return "stream"
    raise SettingsError(
        "every row of a private client must be counted, got a source that gives some of them more often than others, "
        "or to other clients too (replay, a group, several tables, buckets, a curriculum); learn from one table, or "
        "from a stream of this client's own with replay.share 0, or set privacy.unit to update",
        key="privacy.unit",
    )
