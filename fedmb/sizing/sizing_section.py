"""The settings `[sizing]`: a batch-size policy by name, with its own parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field, model_validator

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.sizing.adaptive import cabs, mccandlish, norm_test
from fedmb.sizing.energy import energy_budget, energy_goodput
from fedmb.sizing.goodput import goodput
from fedmb.sizing.planned import ada_batch, fixed, full, instead_of_decay, milestones, ramp
from fedmb.sizing.schedule import constant

if TYPE_CHECKING:
    from fedmb.sizing.policy import BatchSize
    from fedmb.sizing.schedule import Schedule

T = TypeVar("T")

# What each kind reads beside the bounds. A setting that its kind does not read would do nothing, which is a mistake.
PARAMETERS: dict[str, set[str]] = {
    "fixed": {"size"},
    "full": set(),
    "milestones": {"milestones", "decide_every"},
    "ramp": {"size", "stop_size", "samples", "decide_every"},
    "ada_batch": {"size", "every_samples", "factor", "decide_every"},
    "instead_of_decay": {"size", "decide_every"},
    "norm_test": {"size", "theta", "growth", "threshold", "decide_every"},
    "mccandlish": {"size", "growth", "threshold", "decide_every"},
    "cabs": {"size", "growth", "threshold", "decide_every"},
    "goodput": {"size", "growth", "threshold", "decide_every"},
    "energy_goodput": {"size", "growth", "threshold", "decide_every"},
    "energy_budget": {"size", "joules", "samples", "growth", "threshold", "decide_every"},
}
OWN = set[str]().union(*PARAMETERS.values())
UNBOUNDED = PARAMETERS.keys() - {"fixed", "full", "milestones", "ramp"}
LEAST_GROUPED_GROWTH = 2  # the size after one group of rows is two groups


class Sizing(Section):
    """How many rows a step asks for."""

    kind: Literal[
        "fixed",
        "full",
        "milestones",
        "ramp",
        "ada_batch",
        "instead_of_decay",
        "norm_test",
        "mccandlish",
        "cabs",
        "goodput",
        "energy_goodput",
        "energy_budget",
    ] = "fixed"
    """The policy; docs/guide/batch-size.md says which is for whom."""
    size: int = Field(default=32, ge=1)
    """Rows in a batch, or in the first ones until an adaptive policy knows better."""
    min_size: int = Field(default=1, ge=1)
    """Fewest rows that the policy may ask for."""
    max_size: float = Field(default=math.inf, ge=1)
    """Most rows that the policy may ask for; adaptive and growing ones need it."""
    multiple: int = Field(default=1, ge=1)
    """Sizes are multiples of this, such as the group of ghost batch norm."""
    growth: float = Field(default=2.0, gt=1)
    """Most that an adaptive size changes at a time, as a factor."""
    threshold: float = Field(default=0.05, ge=0)
    """Least relative gain for which an adaptive size changes."""
    decide_every: int | None = Field(default=None, ge=1)
    """Rows between two decisions; left out, every question is a decision."""
    milestones: dict[int, int] = Field(default_factory=dict)
    """milestones: the size from each number of samples on, as { 0 = 32, 50000 = 128 }."""
    stop_size: int | None = Field(default=None, ge=1)
    """ramp: rows in a batch at its end."""
    samples: int | None = Field(default=None, ge=1)
    """ramp: rows until its end; energy_budget: rows that the run shall learn."""
    every_samples: int | None = Field(default=None, ge=1)
    """ada_batch: rows between two growths."""
    factor: float = Field(default=2.0, gt=1)
    """ada_batch: by how much the size grows."""
    theta: float = Field(default=1.0, gt=0)
    """norm_test: tolerated error of the gradient relative to its norm."""
    joules: float | None = Field(default=None, gt=0)
    """energy_budget: what the run may spend."""

    @model_validator(mode="after")
    def _consistent(self) -> Sizing:
        reads = PARAMETERS[self.kind]
        idle = [name for name in sorted(OWN - reads - {"size"}) if getattr(self, name) != _default(name)]
        if idle:
            raise ValueError(f"kind {self.kind} must not set what it does not read, got {', '.join(idle)}; remove it")
        missing = [name for name in sorted(reads - {"decide_every"}) if getattr(self, name) in (None, {})]
        if missing:
            raise ValueError(f"kind {self.kind} needs {', '.join(missing)}, got nothing; set {', '.join(missing)}")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size must be at most max_size, got {self.min_size} > {self.max_size:g}; swap them")
        if self.kind in UNBOUNDED and math.isinf(self.max_size):
            raise ValueError(f"kind {self.kind} must be bounded, got no max_size; set max_size to what memory holds")
        self._check_sizes()
        self._policy(constant(), num_rows=1)  # what a constructor refuses is refused here
        return self

    def _check_sizes(self) -> None:
        """Hold every size that is written down to the bounds and the multiple."""
        named: dict[str, float] = {"size": self.size} if "size" in PARAMETERS[self.kind] else {}
        named |= {f"milestones.{since}": size for since, size in self.milestones.items()}
        if self.stop_size is not None:
            named["stop_size"] = self.stop_size
        for name, size in named.items():
            if not self.min_size <= size <= self.max_size:
                raise ValueError(
                    f"{name} must be min_size to max_size, {self.min_size} to {self.max_size:g}, got {size:g}; "
                    "change it or the bounds"
                )
        if self.multiple == 1:
            return
        if self.kind == "full":
            raise ValueError(f"kind full takes every row, got multiple = {self.multiple}; remove it")
        for name, size in (named | {"min_size": self.min_size, "max_size": self.max_size}).items():
            free = (name, size) == ("min_size", 1) or math.isinf(size)
            if not free and size % self.multiple:
                raise ValueError(f"{name} must be a multiple of {self.multiple}, got {size:g}; round it or multiple")
        if "growth" in PARAMETERS[self.kind] and self.growth < LEAST_GROUPED_GROWTH:
            raise ValueError(
                f"growth must be at least 2 where sizes are multiples, got {self.growth}; a smaller one cannot leave "
                "a single group"
            )

    def build(self, *, decay: Schedule, num_rows: float = math.inf) -> BatchSize:
        """The policy that these settings name.

        Args:
            decay: the schedule that `instead_of_decay` turns into sizes; the others do not look at it.
            num_rows: rows of one pass over the source; `math.inf` for a stream.

        Raises:
            SettingsError: `full` on a stream, or beyond `max_size`.
        """
        policy = self._policy(decay, num_rows=num_rows)
        if self.kind == "full" and not self.min_size <= num_rows <= self.max_size:
            raise SettingsError(
                f"kind full takes all {num_rows:g} rows, got min_size {self.min_size} and max_size {self.max_size:g}; "
                "remove the bounds and set a micro-batch size for memory",
                key="sizing.max_size",
            )
        if "growth" in PARAMETERS[self.kind]:
            policy = policy.damped(self.growth, self.threshold)
        if self.kind in UNBOUNDED:
            policy = policy.clip(max(self.min_size, self.multiple), int(self.max_size))
        if self.multiple > 1:
            policy = policy.multiple(self.multiple)
        return policy if self.decide_every is None else policy.every(self.decide_every)

    def _policy(self, decay: Schedule, *, num_rows: float) -> BatchSize:  # noqa: C901, PLR0911, PLR0912  # one case a kind
        match self.kind:
            case "fixed":
                return fixed(self.size)
            case "full":
                if math.isinf(num_rows):
                    raise SettingsError(
                        "kind full needs a table, got an endless stream; name a size", key="sizing.kind"
                    )
                return full(int(num_rows))
            case "milestones":
                return milestones(self.milestones)
            case "ramp":
                return ramp(self.size, _given(self.stop_size), _given(self.samples))
            case "ada_batch":
                return ada_batch(self.size, every_samples=_given(self.every_samples), factor=self.factor)
            case "instead_of_decay":
                return instead_of_decay(decay, self.size)
            case "norm_test":
                return norm_test(self.theta, self.size)
            case "mccandlish":
                return mccandlish(self.size)
            case "cabs":
                return cabs(self.size)
            case "goodput":
                return goodput(self.size)
            case "energy_goodput":
                return energy_goodput(self.size)
            case "energy_budget":
                return energy_budget(_given(self.joules), _given(self.samples), start=self.size)


def _default(name: str) -> object:
    return Sizing.model_fields[name].get_default(call_default_factory=True)


def _given(value: T | None) -> T:
    assert value is not None  # the validator has seen to it
    return value
