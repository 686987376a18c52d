"""The settings `[learning_rate]`: rate, scaling, schedule and clocks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedmb.section import Section
from fedmb.sizing.learning_rate import adam_gain, gain, linear, sqrt
from fedmb.sizing.schedule import constant, cosine, steps, warmup

if TYPE_CHECKING:
    from fedmb.sizing.learning_rate import Scaling
    from fedmb.sizing.schedule import Schedule

# A scaling by name; `constant` and `legw` do not look at a step's rows.
SCALINGS: dict[str, Scaling] = {"linear": linear, "sqrt": sqrt, "gain": gain, "adam_gain": adam_gain}
PARAMETERS: dict[str, set[str]] = {"none": set(), "cosine": {"decay_samples", "floor"}, "steps": {"drops"}}


class LearningRate(Section):
    """The learning rate, what it does over the run, and what follows a step's rows."""

    rate: float = Field(default=0.1, gt=0)
    """Learning rate at base_size, or at every size with scaling constant."""
    scaling: Literal["constant", "linear", "sqrt", "gain", "adam_gain", "legw"] = "constant"
    """How the rate follows the rows of a step; docs/guide/learning-rate.md says which is for whom."""
    base_size: int | None = Field(default=None, ge=1)
    """Batch size at which rate, momentum and decay were tuned; needed where something follows the rows."""
    follow: tuple[Literal["momentum", "weight_decay", "norm_momentum", "average"], ...] = ()
    """Which other values keep their half-life in samples whatever the batch; momentum is Adam's betas too."""
    warmup_samples: float = Field(default=0, ge=0)
    """Rows over which the rate rises to its full height; 0 for none."""
    warmup_start: float = Field(default=0.1, ge=0, le=1)
    """Share of the rate at the first row."""
    decay: Literal["none", "cosine", "steps"] = "none"
    """How the rate falls; with sizing.kind instead_of_decay the batch grows in its place."""
    decay_samples: float | None = Field(default=None, gt=0)
    """cosine: rows until the floor."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """cosine: share of the rate that stays."""
    drops: dict[int, float] = Field(default_factory=dict)
    """steps: share of the rate from each number of samples on, as { 30000 = 0.1 }."""

    @model_validator(mode="after")
    def _consistent(self) -> LearningRate:
        self._refuse_idle()
        if (self.scaling != "constant" or self.follow) and self.base_size is None:
            raise ValueError(
                f"scaling {self.scaling} and follow {list(self.follow)} need base_size, got nothing; "
                "set the size at which the rate was tuned"
            )
        if self.scaling == "legw" and self.warmup_samples == 0:
            raise ValueError("scaling legw stretches a warmup, got warmup_samples = 0; set it, or take sqrt")
        if self.decay == "cosine" and self.decay_samples is None:
            raise ValueError("decay cosine needs decay_samples, got nothing; set the rows of the whole run")
        if self.decay_samples is not None and self.decay_samples <= self.warmup_samples:
            raise ValueError(
                f"decay_samples must exceed warmup_samples, got {self.decay_samples:g} and {self.warmup_samples:g}; "
                "decay over the whole run"
            )
        self.decay_schedule()  # what a constructor refuses is refused here
        return self

    def _refuse_idle(self) -> None:
        """Refuse settings that the chosen decay, warmup or scaling does not read."""
        idle = {"decay_samples", "floor", "drops"} - PARAMETERS[self.decay]
        if self.warmup_samples == 0 or self.scaling == "legw":  # which starts at 0
            idle.add("warmup_start")
        if self.scaling == "constant" and not self.follow:
            idle.add("base_size")
        for name in sorted(idle):
            default = LearningRate.model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} = {getattr(self, name)} must be left out where nothing reads it, got decay {self.decay}, "
                    f"scaling {self.scaling}, warmup_samples {self.warmup_samples:g}; remove {name} or name its owner"
                )

    def warmup_schedule(self) -> Schedule:
        """The rise alone; `legw` brings its own."""
        if self.warmup_samples == 0 or self.scaling == "legw":
            return constant()
        return warmup(self.warmup_samples, start=self.warmup_start)

    def decay_schedule(self) -> Schedule:
        """The fall alone."""
        if self.decay == "cosine" and self.decay_samples is not None:
            return cosine(self.decay_samples, floor=self.floor)
        return steps(self.drops) if self.decay == "steps" else constant()
