"""The settings `[privacy]` of a client: how much it tells its server of its rows, whoever the server is.

    unit "update"    the change of a whole round, shortened to clip_norm, and noised before it leaves
    unit "example"   the gradient of every row, shortened and noised in every step (DP-SGD)

Read without torch; what they do lies in `fedmb.training.private_update`.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from fedmb.section import Section


class ClientPrivacy(Section):
    """What of a client's rows anyone may learn who sees all that leaves it; see docs/guide/privacy.md."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Longest change of a round, or gradient of a row, that counts; what is set switches privacy on."""
    unit: Literal["update", "example"] = "update"
    """What is hidden: all rows of the client at once (update), or every single row among the others (example)."""
    noise_multiplier: float = Field(default=1.0, gt=0)
    """Standard deviation of the noise, in clip_norms: on each round's change, or on the sum of a step's gradients."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Chance that epsilon does not hold; far below one over the number of rows."""
    epsilon: float = Field(default=math.inf, gt=0)
    """Budget: the client takes no part in the round that would pass it; inf only counts."""
    randomness: Literal["unpredictable", "seeded"] = "unpredictable"
    """Where noise and chance come from: the system's entropy, or the run's seed, which repeats a run and hides nothing
    from the server, who knows the seed."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> ClientPrivacy:
        if not self.is_on:
            fields = type(self).model_fields
            changed = [name for name in sorted(self.model_fields_set) if getattr(self, name) != fields[name].default]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} is read with clip_norm, got none; set privacy.clip_norm or leave it out"
                )
        for name in ("clip_norm", "noise_multiplier"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"privacy.{name} must be finite, got {value}; 1 is usual")
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything is shortened and noised."""
        return self.clip_norm is not None
