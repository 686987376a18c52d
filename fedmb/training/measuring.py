"""What a policy reads of each step beside its gradient: time, energy and loss.

Losses stay on the device until the policy is about to be asked, and are read in one piece then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedmb.errors import SettingsError
from fedmb.training.tally import weighed

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from fedmb.sizing.policy import Figure
    from fedmb.sizing.stats import Stats
    from fedmb.telemetry.energy import Meter
    from fedmb.training.step import StepReport


class Measuring:
    """Tells `stats` of each step what a policy reads of it.

    Energy is counted twice: what goes by between two steps makes the line of joules over rows, and all that goes by
    since `begin`, first steps and waiting included, is spent.

    Args:
        stats: is told.
        reads: which figures are wanted.
        meter: counts joules; None where nothing does.
        clock: seconds.
        total: adds sums up over the devices of the client, such as `Ranks.total`; every device calls this alike.
    """

    def __init__(
        self,
        stats: Stats,
        reads: AbstractSet[Figure],
        meter: Meter | None,
        clock: Callable[[], float],
        *,
        total: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        self.meter = meter
        self._stats = stats
        self._clock = clock
        self._total = total
        self._costs = bool(reads & {"seconds", "joules"})
        self._energy = meter if "joules" in reads else None
        self._loss = "loss" in reads
        self._losses: list[tuple[Tensor, float, int]] = []  # sum of the units' losses, units, rows
        self._began: float | None = None
        self._joules: float | None = None
        self.is_on = self._costs or self._loss
        """Whether anything is wanted of a step."""

    def begin(self, budget_joules: float) -> None:
        """Start to count energy: of a stretch of training that may spend so much.

        Raises:
            SettingsError: the budget is finite and nothing measures it.
        """
        if self.meter is None and budget_joules == float("inf"):
            return
        self._began = self._joules = None if self.meter is None else self.meter.used().joules
        if self._began is None and budget_joules < float("inf"):
            raise SettingsError(
                f"a budget of {budget_joules:g} J needs a meter, this machine has none that can be read; set "
                "training.watts to model one, or give another budget",
                key="training.watts",
            )

    def spent(self) -> float:
        """Joules since `begin`; 0 where nothing measures them."""
        now = None if self.meter is None else self.meter.used().joules
        return 0.0 if now is None or self._began is None else now - self._began

    def after_step(self, report: StepReport, started: float, *, warm: bool) -> None:
        """Count a step; one that is not `warm` allocates and tunes, so its cost says nothing of the next ones."""
        if self._costs:
            seconds, joules = self._clock() - started, self._joules_since_last()
            if joules is not None:
                self._stats.spend(joules)
            if warm:
                self._stats.observe_step(report.rows, seconds, joules)
        if self._loss and report.units:
            losses = [weighed(seen.values["loss"], seen.units) for seen in report.seen] or [torch.zeros(1)]
            self._losses.append((torch.cat(losses).double().sum(), report.units, report.rows))

    def tell_losses(self) -> None:
        """Read the losses of the steps since the last call, which waits for the device once."""
        if not self._losses:
            return
        read = dict(enumerate(torch.stack([loss for loss, _, _ in self._losses]).tolist()))
        sums = {f"{step:06}": total for step, total in read.items()}
        if self._total is not None:
            sums = self._total(sums)
        for total, (_, units, rows) in zip(sums.values(), self._losses, strict=True):
            self._stats.observe_loss(total / units, rows)
        self._losses.clear()

    def _joules_since_last(self) -> float | None:
        if self._energy is None:
            return None
        before, self._joules = self._joules, self._energy.used().joules
        return None if before is None or self._joules is None else self._joules - before
