"""Settings `[replay]`: what a streamed client remembers, and how much of each batch comes from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedmb.errors import SettingsError
from fedmb.replay.blend import Blend
from fedmb.replay.kept_states import KeptStates
from fedmb.replay.long_memory import LongMemory
from fedmb.replay.loss_memory import LossMemory
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for
from fedmb.section import Section

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.batch.rows import Rows
    from fedmb.batch.source import BatchSource
    from fedmb.replay.remembered import Remembered
    from fedmb.training.task import Task


class Replaying(Section):
    """How much of each batch of a streamed client is replayed, so that what left the stream is not forgotten."""

    share: float = Field(default=0.5, ge=0, lt=1)
    """Part of a batch that is drawn from remembered rows; 0 learns fresh rows only."""
    window: int = Field(default=16384, ge=1)
    """Rows that are remembered. Newest and prioritized forget classes that left the stream longer ago than that."""
    memory: Literal["newest", "reservoir", "balanced", "prioritized"] = "newest"
    """Which rows are remembered: the newest; a uniform sample of all that came (reservoir); one with as many rows of
    each class, by the task's label (balanced); or the newest, drawn the more often the more they cost (prioritized)."""
    alpha: float = Field(default=0.6, ge=0)
    """memory prioritized: how much losses count; 0 draws uniformly."""
    beta: float = Field(default=0.4, ge=0, le=1)
    """memory prioritized: how much rows drawn often are weighed down, so that the gradient stays that of all rows; 1 in
    full, 0 not at all."""

    @model_validator(mode="after")
    def _consistent(self) -> Replaying:
        defaults = type(self).model_fields
        for name in ("alpha", "beta"):
            if self.memory != "prioritized" and getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"{name} goes with memory prioritized, got {name} {getattr(self, name)} with memory {self.memory}; "
                    "leave it out or change memory"
                )
        return self

    def check_against(self, task: Task, rows: Rows) -> None:
        """Demand that the task has a label where classes are balanced, and that no draw is made before its losses.

        Raises:
            SettingsError: it lacks one, or rows are to be made ahead.
        """
        if self.share == 0:
            return
        if self.memory == "balanced" and getattr(task, "label", None) not in task.schema:
            raise SettingsError(
                f"a balanced memory needs a task with a label, {type(task).__name__} has none; name an integer column "
                "as its label, or set replay.memory to reservoir",
                key="replay.memory",
            )
        if self.memory == "prioritized" and rows.prefetch:
            raise SettingsError(
                f"rows drawn by loss are not made ahead, got rows.prefetch = {rows.prefetch}: what they cost is known "
                "after the step; set rows.prefetch to 0",
                key="rows.prefetch",
            )

    def blended(self, fresh: BatchSource, task: Task, *, client: str, seed: int, state: Path) -> BatchSource:
        """`fresh` with replayed rows, remembered in files in `state`; as it is where nothing is replayed.

        Raises:
            AlreadyOwned: another live process has the client's memory; `fresh` is closed.
            SettingsError: the memory's file was made for other settings, or the disk is full; `fresh` is closed.
        """
        if self.share == 0:
            return fresh
        try:
            return Blend(fresh, self._memory(task, client=client, seed=seed, state=state), self.share)
        except BaseException:
            fresh.close()
            raise

    def _memory(self, task: Task, *, client: str, seed: int, state: Path) -> Remembered:
        if self.memory == "reservoir":
            return LongMemory.mapped(state / "reservoir.ring", task.schema, self.window, seed=seed, client=client)
        if self.memory == "balanced":
            label = str(getattr(task, "label", None))
            path = state / "balanced.ring"
            return LongMemory.mapped(path, task.schema, self.window, label=label, seed=seed, client=client)
        ring = Ring.mapped(state / "replay.ring", task.schema, capacity_for(self.window))
        if self.memory == "newest":
            return UniformReplay(ring, self.window, seed=seed, client=client)
        return LossMemory(
            ring,
            self.window,
            alpha=self.alpha,
            beta=self.beta,
            seed=seed,
            client=client,
            states=KeptStates(state / "losses"),
        )
