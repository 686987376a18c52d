"""A server that is a process of its own: its settings, and errors that keep their name on the way out of it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from fedmb import errors
from fedmb.access.door_limits import DoorLimits
from fedmb.aggregation.compress import Wire
from fedmb.aggregation.rule_choice import Aggregation
from fedmb.errors import DISK_ERRORS, FedmbError
from fedmb.federation.checkpoint import Checkpoints
from fedmb.federation.rounds import Rounds
from fedmb.federation.strategy_choice import check_together
from fedmb.section import Section
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.telemetry.watching_section import Watching
from fedmb.training.recipe import Training

if TYPE_CHECKING:
    from collections.abc import Iterator


class ServerSettings(Section):
    """Everything that `fedmb server` can be told about a run."""

    seed: int = Field(default=0, ge=0)
    """Every random draw of the run follows from it, those of the clients too."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; the model is scored where the class brings test rows."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch."""
    restarts: int = Field(default=5, ge=0)
    """How often in a row, with no round closed between, processes that died are started again; 0 for never."""
    rounds: Rounds = Rounds(count=30)
    wire: Wire = Wire()
    aggregation: Aggregation = Aggregation()
    checkpoints: Checkpoints = Checkpoints()
    training: Training = Training(steps=20, learning_rate=LearningRate(rate=0.2))
    """How every client trains."""
    door: DoorLimits = DoorLimits()
    """What nodes may send, where there is TLS."""
    watching: Watching = Watching()

    @model_validator(mode="after")
    def _enough_clients(self) -> ServerSettings:
        self.rounds.check_against(self.rounds.min_clients, key="rounds.min_clients")
        self.aggregation.check_against(self.rounds.min_clients, self.rounds.fraction_train, key="rounds.min_clients")
        check_together(self.aggregation, self.training, self.wire, self.rounds)
        return self


@contextmanager
def named_failures() -> Iterator[None]:
    """Put an error's class in front of its sentence: Flower hands on an exception's text and nothing else."""
    try:
        yield
    except FedmbError as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def failure_from(text: str) -> FedmbError | OSError | None:
    """The error that `named_failures` wrote somewhere into `text`, or a disk's refusal; None where there is none."""
    found = re.search(rf"\b({'|'.join(_KINDS)}): (.+)", text, re.DOTALL)
    if found:
        return _KINDS[found[1]](found[2].strip())
    refusal = re.search(r"\[Errno (\d+)\] ([^:]+)(?:: '(.+)')?", text)
    if refusal and int(refusal[1]) in DISK_ERRORS:
        return OSError(int(refusal[1]), refusal[2].strip(), refusal[3])
    return None


_KINDS: dict[str, type[FedmbError]] = {
    name: kind
    for name, kind in vars(errors).items()
    # CorruptLog tells an offset, which a text does not carry; a server reads no log.
    if isinstance(kind, type) and issubclass(kind, FedmbError) and kind is not errors.CorruptLog
}
