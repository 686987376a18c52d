"""Steps one after the other: size -> rows -> split -> gradient -> guard -> update.

    while the budget lasts:
        size  = policy(progress, stats)                 # every POLL steps; a probe where a line lacks a second size
        size, replayed share = as an alarm says         # where a watch listens to a stream's fresh rows
        batch = source.take(size)
        hyper-parameters = schedule(samples) x follow(rows of this batch)
        report = step(batch)                            # split, precision, edits, guard, optimiser
        progress counts rows; stats count noise, time and loss where the policy reads them

Each technique replaces one arrow, reads `Stats`, and knows none of the others. All clocks count samples, so a changed
batch size leaves warmup and decay at the same sample (invariant I3).
"""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from fedmb.errors import NotEnoughData, SettingsError
from fedmb.sizing.planned import fixed
from fedmb.sizing.policy import BatchSize, Progress
from fedmb.sizing.probe import probe
from fedmb.sizing.stats import Stats
from fedmb.training.dealt_source import DealtSource
from fedmb.training.guard import Verdict
from fedmb.training.hyperparameters import Hyperparameters
from fedmb.training.measuring import Measuring
from fedmb.training.regularize import Proximal
from fedmb.training.stretch import Budget, Learnt
from fedmb.training.tally import Tally
from fedmb.training.told_source import ToldSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmb.batch.minibatch import MiniBatch
    from fedmb.batch.source import BatchSource
    from fedmb.sizing.clocks import Follow
    from fedmb.sizing.schedule import Schedule
    from fedmb.telemetry.energy import Meter
    from fedmb.training.fresh_watch import FreshWatch
    from fedmb.training.regularize import DropoutRule, TimescaleDecay
    from fedmb.training.step import StepReport, TrainStep
    from fedmb.training.weight_average import WeightAverage

POLL = 16  # steps between two questions to the policy; a question costs microseconds, a size lives for seconds
NOISE_EVERY = 500  # steps: cutting a batch in two costs half a step more, so its share stays under 0.5 %


class Trainer:
    """Trains one model from one source.

    Args:
        step: takes the steps.
        source: gives the rows; one that listens is told their losses.
        size: rows to ask for; a number stands for a fixed size.
        schedule: factor on the learning rate, by samples.
        follow: hyper-parameters that follow the rows of each step.
        noise_every: steps between two measurements of the gradient noise; 0 measures only what the policy reads.
        average: moving average of the weights, updated after each step.
        decay: shrinks weights by the rows of each step.
        dropout: sets dropout by the rows of each step.
        watch: scores fresh rows of a stream and answers alarms; made for this step and source.
        meter: counts the joules that an energy policy reads or a budget limits.
        clock: seconds, for the time that a policy reads and the waiting for rows.

    Raises:
        SettingsError: the policy has no upper bound.
    """

    def __init__(
        self,
        step: TrainStep,
        source: BatchSource,
        *,
        size: BatchSize | int,
        schedule: Schedule | None = None,
        follow: Follow | None = None,
        noise_every: int = 0,
        average: WeightAverage | None = None,
        decay: TimescaleDecay | None = None,
        dropout: DropoutRule | None = None,
        watch: FreshWatch | None = None,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.step = step
        dealt = DealtSource(source, step.ranks) if step.ranks.count > 1 else source
        self._told = ToldSource.around(dealt, source, step.ranks, multiple=step.split.multiple)
        self.source: BatchSource = self._told or dealt
        self.size = fixed(size) if isinstance(size, int) else size
        if math.isinf(self.size.largest):
            raise SettingsError("a batch size needs an upper bound, got a policy without one; add .clip(lo, hi)")
        if watch is not None and (answer := watch.schedule) is not None:
            schedule = schedule * answer if schedule is not None else answer
        self.hyperparameters = Hyperparameters(step.model, step.optimizer, schedule=schedule, follow=follow)
        reads = self.size.reads | (follow.reads if follow else frozenset())
        self.noise_every = noise_every or (NOISE_EVERY if "noise" in reads else 0)
        self.stats = Stats()
        self.average = average
        self.decay = decay
        self.dropout = dropout
        self.watch = watch
        self._pull = sum(edit.mu for edit in step.edits if isinstance(edit, Proximal))
        self._reads = reads
        self._clock = clock
        total = step.ranks.total if step.ranks.count > 1 else None
        self.measuring = Measuring(self.stats, reads, meter, clock, total=total)
        self._samples = self._steps = 0
        self._rate = self.hyperparameters.learning_rate
        self._paced = self.hyperparameters.changes
        self._size: int | None = None
        self._probe: int | None = None
        self._asked_at: int | None = None

    @property
    def progress(self) -> Progress:
        """Where training stands, as a policy sees it."""
        return Progress(
            samples=self._samples,
            steps=self._steps,
            epoch=self._samples / self.source.examples_per_epoch,
            learning_rate=self.hyperparameters.learning_rate,
            size=self._size,
            asked_at=self._asked_at,
        )

    def run(self, budget: Budget, *, until_alarm: bool = False, learnt: Learnt | None = None) -> Learnt:
        """Train until the budget is used up; a source that stays silent, or with `until_alarm` a drift, ends it early.

        Args:
            budget: of all of it; seconds and joules count from now.
            until_alarm: stop when a drift alarm rings.
            learnt: what this trainer learnt before, of the same budget; added to, and answered.

        Raises:
            Diverged: fp16 overflows at every scale.
            SettingsError: the budget is in joules, and nothing measures them.
        """
        ranks = self.step.ranks
        learnt = learnt or Learnt(tally=Tally(ranks.total if ranks.count > 1 else None))
        began = self._clock()
        rows_left, deadline = budget.samples - sum(learnt.rows.values()), began + budget.seconds
        is_limited = min(budget.seconds, budget.joules) < math.inf
        self._rate = self.hyperparameters.learning_rate
        self.step.model.train()
        self.measuring.begin(budget.joules)
        watch = self.watch
        if watch is not None:
            watch.begin()
        while learnt.steps < budget.steps and rows_left > 0:
            if is_limited and not self._may_go_on(deadline, budget.joules):
                break
            size = self._next_size()
            if watch is not None:
                size = watch.before_step(self._steps, self._samples, size)
            wanted = int(min(size, rows_left))
            asked = self._clock()
            try:
                batch = self.source.take(wanted)
            except NotEnoughData:
                break
            started = self._clock()
            report = self._learn(batch)
            if report.verdict is Verdict.OK:
                learnt.rate += self._rate
                learnt.reach.step(self._rate, momentum=self.hyperparameters.momentum, pull=self._pull)
            learnt.wait_seconds += started - asked
            learnt.count(batch, report)
            self._observe(batch, report, started, warm=learnt.steps > 1)
            if watch is not None:
                watch.after_step(batch, report, self._samples)
                if until_alarm and watch.has_alarm:
                    break
            rows_left -= batch.counted
        self.measuring.tell_losses()
        ranks.agree(self.step.model)
        learnt.seconds += self._clock() - began
        return learnt

    def _learn(self, batch: MiniBatch) -> StepReport:
        """Take a step at the values that go with its rows."""
        if self._paced:
            self.hyperparameters.apply(self._samples, batch.counted, self.stats)
            self._rate = self.hyperparameters.learning_rate
        if self.dropout is not None:
            self.dropout.apply(batch.counted)
        report = self.step(batch, measure=self.noise_every > 0 and self._steps % self.noise_every == 0)
        if report.verdict is Verdict.OK:
            if self.decay is not None:
                self.decay.apply(report.rows)
            if self.average is not None:
                self.average.after_step(self.hyperparameters.ema_decay)
        return report

    def _may_go_on(self, deadline: float, joules: float) -> bool:
        """Whether there is time and energy left; rank 0's clock and meter decide for all."""
        has_energy = math.isinf(joules) or self.measuring.spent() < joules
        return bool(self.step.ranks.told(has_energy and self._clock() < deadline))

    def _next_size(self) -> int:
        if self._size is None or self._steps % POLL == 0:
            self.measuring.tell_losses()
            self._size = self.size(self.progress, self.stats)
            self._asked_at = self._samples
            self._probe = probe(self.size, self._size, self.stats)
        return self._probe or self._size

    def _observe(self, batch: MiniBatch, report: StepReport, started: float, *, warm: bool) -> None:
        self._steps += 1
        if self._told is not None:
            self._told.after_step(batch, report)
        if report.verdict is Verdict.OK:  # a skipped batch was not learnt, so no clock in samples counts it
            self._samples += report.rows
        if report.groups is not None:
            self.stats.observe_groups(*report.groups)
        if self.measuring.is_on:
            self.measuring.after_step(report, started, warm=warm)

    def clock_state(self) -> dict[str, Any]:
        """Progress, statistics, watch, guard and scale as JSON values: what a client carries from round to round."""
        state: dict[str, Any] = {"samples": self._samples, "steps": self._steps}
        state |= {"size": self._size, "asked_at": self._asked_at, "probe": self._probe}
        if self._reads or self.noise_every:
            state["stats"] = self.stats.state_dict()
        if self.watch is not None:
            state["watch"] = self.watch.state_dict()
        if self.step.guard is not None:
            state["guard"] = self.step.guard.state_dict()
        if scale := self.step.precision.state_dict():
            state["precision"] = scale
        return state

    def load_clock_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `clock_state` gave.

        Raises:
            SettingsError: the state belongs to another precision.
            ValueError: the state belongs to other statistics or to another watch.
        """
        self._samples, self._steps = state["samples"], state["steps"]
        self._size, self._asked_at, self._probe = state["size"], state["asked_at"], state.get("probe")
        if "stats" in state:
            self.stats.load_state_dict(state["stats"])
        if "watch" in state and self.watch is not None:
            self.watch.load_state_dict(state["watch"])
        if "guard" in state and self.step.guard is not None:
            self.step.guard.load_state_dict(state["guard"])
        self.step.precision.load_state_dict(state.get("precision", {}))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors for model, optimiser, averages and torch's generators."""
        step = self.step
        state = {
            "clock": self.clock_state(),
            "source": self.source.position(),
            "model": {name: value.detach().clone() for name, value in step.model.state_dict().items()},
            "optimizer": copy.deepcopy(step.optimizer.state_dict()),
            "split": step.split.state_dict(),
            "edits": [edit.state_dict() for edit in step.edits],
            "generators": {"cpu": torch.get_rng_state(), "cuda": _cuda_generators(step.device)},
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if step.rollback is not None:
            state["rollback"] = step.rollback.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave; torch's global generators are set too."""
        step = self.step
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.load_clock_state(state["clock"])
        self.source.seek(state["source"])
        step.split.load_state_dict(state["split"])
        for edit, memory in zip(step.edits, state["edits"], strict=True):
            edit.load_state_dict(memory)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if step.rollback is not None:
            step.rollback.load_state_dict(state["rollback"])
        torch.set_rng_state(state["generators"]["cpu"])
        if state["generators"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["generators"]["cuda"], step.device)


def _cuda_generators(device: torch.device) -> torch.Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None
