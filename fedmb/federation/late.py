"""Updates that come after their round has closed: dropped, or counted for less.

A late update learnt from a model that is `staleness` versions old. What it changed is added to the current model, times
`(1 + staleness) ** -power`, and takes part in the open round as any other, so every rule and strategy works on it. It
must start where its client stands: of a stream at the ledger, of a table at the stored position; so nothing is learnt
twice. With `buffer = K` a version is made of every K updates, whenever they come, and who has answered is asked anew
at once, while others are at work for older versions.

Source: FedBuff, Nguyen et al. 2022, arXiv:2106.06639, algorithm 1, with the staleness scaling of its experiments.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from fedmb.arrays.flat import FlatArrays
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.federation.checkpoint import ServerState
    from fedmb.update import Arrays, Update


class Late(Section):
    """What becomes of updates that come after their round has closed."""

    policy: Literal["drop", "discount"] = "drop"
    """drop: their rows are learnt again from the ledger or position; discount: their change counts for less."""
    max_staleness: int = Field(default=4, ge=1, le=1000)
    """discount: versions that an update may be behind; the server keeps as many models in memory."""
    power: float = Field(default=0.5, ge=0)
    """discount: an update that is s versions behind counts (1 + s) ** -power; 0 counts all alike."""
    buffer: float = Field(default=math.inf, ge=1)
    """discount: updates, late ones among them, that make a version (FedBuff's K); inf waits for the round's clients."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Late:
        idle = sorted({"max_staleness", "power", "buffer"} & self.model_fields_set)
        changed = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        if self.policy == "drop" and changed:
            raise ValueError(
                f'{", ".join(changed)} is for policy = "discount", got it with "drop"; set the policy or leave it out'
            )
        if math.isfinite(self.buffer) and self.buffer != int(self.buffer):
            raise ValueError(f"buffer counts updates, got {self.buffer:g}; make it a whole number")
        return self

    @property
    def is_counted(self) -> bool:
        """Whether late updates count at all."""
        return self.policy == "discount"

    def factor(self, staleness: int) -> float:
        """What an update counts that is so many versions behind."""
        return float((1 + staleness) ** -self.power)


class RecentVersions:
    """The versions that an update may start from: the last ones, as long as this process lives.

    Messages do not outlive it either, so a resumed run needs no older models.
    """

    def __init__(self, late: Late) -> None:
        self._most = late.max_staleness + 1 if late.is_counted else 1
        self._states: dict[int, ServerState] = {}

    def opened(self, state: ServerState) -> Mapping[int, ServerState]:
        """The versions, by number, now that a round opens on `state`; a round that is tried again changes nothing."""
        earlier = [one for version, one in sorted(self._states.items()) if version < state.version]
        kept = earlier[max(0, len(earlier) + 1 - self._most) :]
        self._states = {one.version: one for one in (*kept, state)}
        return self._states


def rebased(update: Update, base: Arrays, current: Arrays, factor: float) -> Update:
    """The update as if it had started from `current`: that, moved by `factor` times its change of `base`.

    Integers stay as they are in the update: they are facts of one client, and no changes.
    """
    trained, before = FlatArrays.packed(update.arrays), FlatArrays.packed(base).reals()
    moved = {}
    for group, here in FlatArrays.packed(current).reals().items():
        change = np.subtract(trained.reals()[group], before[group])
        change *= np.asarray(factor, change.dtype)
        change += here
        moved[group] = change
    return replace(update, arrays=trained.replaced(moved, trained))
