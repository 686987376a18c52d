"""Stops a run that has arrived, or that no longer gets better, and says why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmb.telemetry.events import RoundReport


class Stopping(Section):
    """When a run ends before its last round; with neither target nor patience it does not."""

    metric: str = "accuracy"
    """Score of the global model that is watched; "train_loss" watches the clients' loss before each step."""
    higher_is_better: bool = True
    """Set it to false for losses."""
    target: float | None = None
    """Stop as soon as the metric is at least (or, for losses, at most) this."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many rounds without a better value."""
    min_change: float = Field(default=0.0, ge=0)
    """A value counts as better only if it is better by more than this."""

    @model_validator(mode="after")
    def _finite_target(self) -> Stopping:
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(f"a target must be finite, got {self.target}; leave it out for none")
        for name in ("metric", "higher_is_better", "min_change") if not self.is_on else ():
            value = getattr(self, name)
            if value != Stopping.model_fields[name].default:
                raise ValueError(
                    f"{name} is read where a run may stop, got {value} and neither target nor patience; set one of "
                    f"them, or remove {name}"
                )
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything stops a run before its last round."""
        return self.target is not None or self.patience is not None


class Convergence:
    """Watches one metric from round to round.

    Its memory, the best value with its round and the reason, is in `state_dict`, so a resumed run stops where it
    would have stopped.
    """

    def __init__(self, stopping: Stopping) -> None:
        self.stopping = stopping
        self.reason: str | None = None
        """Why the run is over; None while it is not."""
        self._best: float | None = None
        self._best_round = 0

    def observe(self, report: RoundReport) -> str | None:
        """The reason to stop after this round; None to go on.

        Raises:
            SettingsError: the run has no such metric.
        """
        if not self.stopping.is_on:
            return None
        value = self._value({"train_loss": report.train_loss, **report.scores})
        if self._is_better(value):
            self._best, self._best_round = value, report.round
        self.reason = self._arrived(value) or self._exhausted(report.round)
        return self.reason

    def state_dict(self) -> dict[str, Any]:
        """Best value, its round, and the reason to stop."""
        return {"best": self._best, "round": self._best_round, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; an empty one is the beginning."""
        self._best, self._best_round = state.get("best"), state.get("round", 0)
        self.reason = state.get("reason")

    def check(self, score: Callable[[], Mapping[str, float]] | None) -> None:
        """Demand, before a round is trained for nothing, that the run has the watched metric.

        Args:
            score: scores the model that the run starts from, called only where its names are needed; None where nothing
                is scored.

        Raises:
            SettingsError: it has not.
        """
        if self.stopping.is_on and self.stopping.metric != "train_loss":
            self._value({"train_loss": math.nan, **(score() if score else {})})

    def _value(self, known: Mapping[str, float]) -> float:
        if self.stopping.metric not in known:
            raise SettingsError(
                f"the watched metric must be one of {sorted(known)}, got {self.stopping.metric!r}; set stopping.metric",
                key="stopping.metric",
            )
        return known[self.stopping.metric]

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self._best is None:
            return True
        gain = value - self._best if self.stopping.higher_is_better else self._best - value
        return gain > self.stopping.min_change

    def _arrived(self, value: float) -> str | None:
        target = self.stopping.target
        if target is None or not (value >= target if self.stopping.higher_is_better else value <= target):
            return None
        return f"{self.stopping.metric} {value:.4g} reached the target {target:g}"

    def _exhausted(self, number: int) -> str | None:
        patience = self.stopping.patience
        if patience is None or number - self._best_round < patience:
            return None
        best = "never had a value" if self._best is None else f"is best at {self._best:.4g} in round {self._best_round}"
        return f"{self.stopping.metric} {best}, {patience} rounds ago"
