"""The settings `[training.guard]`: what may happen to a gradient before it is used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from fedmb.section import Section

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedmb.training.guard import GradientGuard
    from fedmb.training.rollback import RollbackPoint


class Guarding(Section):
    """What may happen to a gradient before it is used."""

    clip_norm: float = Field(default=math.inf, gt=0)
    """Longest gradient; longer ones are shortened to it, once a batch."""
    skip_non_finite: bool = False
    """Leave out batches whose gradient is not finite, and count them."""
    spike_factor: float = Field(default=math.inf, gt=1)
    """Leave out gradients so many times longer than the median of the last ones; the third in a row goes back."""
    rollback_every: int = Field(default=100, ge=1)
    """spike_factor: good steps between two copies to go back to."""

    @model_validator(mode="after")
    def _consistent(self) -> Guarding:
        if math.isinf(self.spike_factor) and self.rollback_every != Guarding.model_fields["rollback_every"].default:
            raise ValueError(
                f"rollback_every is read where spikes go back, got {self.rollback_every} and no spike_factor; set "
                "spike_factor, or remove rollback_every"
            )
        return self

    def build(self) -> GradientGuard | None:
        """The guard, or None where nothing is guarded."""
        from fedmb.training.guard import Clip, Finite, Spike

        parts: list[GradientGuard] = []
        if math.isfinite(self.clip_norm):
            parts.append(Clip(self.clip_norm))
        if self.skip_non_finite:
            parts.append(Finite())
        if math.isfinite(self.spike_factor):
            parts.append(Spike(self.spike_factor))
        if not parts:
            return None
        guard = parts[0]
        for part in parts[1:]:
            guard &= part
        return guard

    def build_rollback(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> RollbackPoint | None:
        """Where to go back to, or None where nothing does."""
        from fedmb.training.rollback import RollbackPoint

        return None if math.isinf(self.spike_factor) else RollbackPoint(model, optimizer, every=self.rollback_every)
