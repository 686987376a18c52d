"""The settings `[training.prequential]` and `[training.drift]`, and what an alarm changes for a while."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from fedmb.batch.replay_share import replay_share
from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.sizing.adwin import Adwin
from fedmb.sizing.page_hinkley import PageHinkley
from fedmb.sizing.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.batch.source import BatchSource


class DriftDetector(Protocol):
    """Listens to a loss and says when it has risen."""

    def observe(self, mean: float, rows: int) -> bool:
        """Count the mean loss of `rows` rows; True when a rise is found, once for each."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """What was observed, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave."""
        ...


class Scoring(Section):
    """How streamed rows are scored before they are learnt (test-then-train)."""

    window: int = Field(default=2048, ge=0)
    """Fresh rows of a stream in the windowed score; 0 keeps no score."""
    fading: float = Field(default=0.999, gt=0, le=1)
    """What a fresh row leaves of the weight of earlier ones in the fading score."""
    every: int = Field(default=16, ge=1)
    """Steps between two looks at the figures, each of which waits for the device; an alarm is answered at the next."""


class Drift(Section):
    """Alarms on the loss of a stream's fresh rows before they are learnt, and what an alarm changes for a while."""

    detector: Literal["off", "page-hinkley", "adwin"] = "off"
    """What rings when the loss rises; it is quiet on a client without a stream."""
    threshold: float = Field(default=50.0, gt=0, lt=math.inf)
    """page-hinkley: the loss, summed over rows, above its mean so far that rings."""
    delta: float = Field(default=0.05, ge=0, lt=math.inf)
    """page-hinkley: rise of the loss that is let pass."""
    min_rows: int = Field(default=512, ge=0)
    """page-hinkley: rows before it may ring, at first and after an alarm."""
    confidence: float = Field(default=0.002, gt=0, lt=1)
    """adwin: chance that a cut of its window is a false one."""
    clock: int = Field(default=4, ge=1)
    """adwin: batches between two looks at its window."""
    rewarm: float = Field(default=1.0, gt=0, lt=math.inf)
    """Factor on the learning rate at an alarm, from where it goes back to 1 in a straight line; 1 for none."""
    rewarm_samples: int = Field(default=2048, ge=1)
    """Rows until the rate is back."""
    shrink: float = Field(default=1.0, gt=0, le=1)
    """Factor on the batch size after an alarm; 1 for none."""
    shrink_samples: int = Field(default=2048, ge=1)
    """Rows for which batches are smaller."""
    replay_share: float | None = Field(default=None, ge=0, lt=1)
    """Part of a batch that is replayed after an alarm, in place of the usual one; left out, it stays."""
    replay_samples: int = Field(default=2048, ge=1)
    """Rows for which the replayed part is another."""

    @model_validator(mode="after")
    def _heard(self) -> Drift:
        if self.detector == "off" and (self.rewarm != 1 or self.shrink != 1 or self.replay_share is not None):
            raise ValueError(
                f"what answers an alarm needs a detector, got rewarm {self.rewarm}, shrink {self.shrink} and "
                f"replay_share {self.replay_share} with detector off; set detector to page-hinkley or adwin"
            )
        return self

    def build(self) -> DriftDetector | None:
        """The detector; None where it is off."""
        if self.detector == "page-hinkley":
            return PageHinkley(threshold=self.threshold, delta=self.delta, min_rows=self.min_rows)
        return Adwin(delta=self.confidence, clock=self.clock) if self.detector == "adwin" else None

    def check(self, source: BatchSource) -> None:
        """Refuse a replayed share for a stream without replay; a table is let pass, since nothing rings there.

        Raises:
            SettingsError: the source cannot change what it replays.
        """
        if self.replay_share is not None and math.isinf(source.examples_per_epoch) and replay_share(source) is None:
            raise SettingsError(
                f"an alarm's replay_share of {self.replay_share} needs a stream whose rows are remembered, got one "
                "without replay; set replay.share above 0, or leave it out",
                key="drift.replay_share",
            )


class DriftResponse:
    """What is different for a while after an alarm: learning rate, batch size and replayed share, each or all.

    Counts the samples learnt since the last alarm was answered; a new alarm begins anew.

    Args:
        drift: how much and for how long.
        multiple: shrunken batches are multiples of this, at least one.
    """

    def __init__(self, drift: Drift, *, multiple: int = 1) -> None:
        self.drift = drift
        self._multiple = multiple
        self._since: int | None = None

    @property
    def schedule(self) -> Schedule | None:
        """Factor on the learning rate by samples learnt; None where it is always 1."""
        return Schedule(self.rate_factor) if self.drift.rewarm != 1 else None

    def begin(self, samples: int) -> None:
        """Answer an alarm after `samples` learnt rows."""
        self._since = samples

    def rate_factor(self, samples: float) -> float:
        """`rewarm` at the alarm, 1 from `rewarm_samples` on, a straight line between; also 1 before any alarm."""
        if self._since is None:
            return 1.0
        left = max(0.0, 1 - (samples - self._since) / self.drift.rewarm_samples)
        return 1 + (self.drift.rewarm - 1) * left

    def size(self, size: int, samples: int) -> int:
        """Rows to ask for where a policy said `size`."""
        if self.drift.shrink == 1 or not self._is_within(self.drift.shrink_samples, samples):
            return size
        return max(1, int(size * self.drift.shrink) // self._multiple) * self._multiple

    def share(self, samples: int) -> float | None:
        """The replayed share after `samples` learnt rows; None for the usual one."""
        return self.drift.replay_share if self._is_within(self.drift.replay_samples, samples) else None

    def state_dict(self) -> dict[str, int | None]:
        """Samples learnt when the last alarm was answered."""
        return {"since": self._since}

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        """Go on from what `state_dict` gave."""
        self._since = state["since"]

    def _is_within(self, length: int, samples: int) -> bool:
        return self._since is not None and samples - self._since < length
