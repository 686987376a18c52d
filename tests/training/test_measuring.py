"""What a policy reads of a step, by a clock and a meter that go as they are told."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.sizing.adaptive import cabs
from fedmb.sizing.energy import energy_budget, energy_goodput
from fedmb.sizing.goodput import goodput
from fedmb.sizing.planned import fixed
from fedmb.sizing.stats import Stats
from fedmb.telemetry.energy import Energy
from fedmb.training.measuring import Measuring
from fedmb.training.step import StepReport, TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.tally import Seen
from fedmb.training.trainer import POLL, Trainer


class Machine:
    """A clock and a meter: a step of B rows takes 1 + B / 100 s and 4 + B / 8 J."""

    def __init__(self):
        self.now = self.joules = 0.0

    def clock(self):
        return self.now

    def used(self):
        return Energy(self.joules, "modelled")

    def step(self, rows):
        self.now += 1 + rows / 100
        self.joules += 4 + rows / 8


class Timed:
    """A regression whose forward pass takes the machine's time."""

    schema = {"x": Column("float32", (4,)), "y": Column("float32")}

    def __init__(self, machine):
        self.machine = machine
        self.sizes = []

    def build_model(self):
        return nn.Linear(4, 1)

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        self.machine.step(len(outputs))
        self.sizes.append(len(outputs))
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


def timed(policy, *, meter=True):
    """A trainer with a noise of 50 rows that nothing measures anew, and the task that keeps the sizes."""
    torch.manual_seed(0)
    machine = Machine()
    task = Timed(machine)
    model = task.build_model()
    x = np.random.default_rng(0).standard_normal((64_000, 4)).astype(np.float32)
    trainer = Trainer(
        TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.01)),
        TableSource({"x": x, "y": x.sum(1)}, seed=0, client="a"),
        size=policy,
        noise_every=10**9,
        meter=machine if meter else None,
        clock=machine.clock,
    )
    trainer.run(Budget(steps=1))  # the step that would measure the noise
    task.sizes.clear()
    return trainer, task


def set_noise(trainer, noise):
    """Replace what was measured by a noise scale."""
    for name, value in (("trace", noise), ("gradient_square", 1.0)):
        trainer.stats._averages[name].load_state_dict({"sum": value, "weight": 1.0})


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (goodput(32), 71),  # sqrt(50 * 1 / 0.01)
        (energy_goodput(32), 40),  # sqrt(50 * 4 * 8)
        (energy_budget(10_320.0, 50_000, start=32), 50),  # (4 + 50 / 8) / 50 J a row
    ],
)
def test_a_policy_of_costs_leaves_its_start_after_half_of_it_was_tried(policy, size):
    trainer, task = timed(policy.clip(8, 256))
    set_noise(trainer, 50.0)
    trainer.run(Budget(steps=3 * POLL))

    assert task.sizes[: POLL - 1] == [32] * (POLL - 1)
    assert task.sizes[POLL - 1 : 2 * POLL - 1] == [16] * POLL
    assert task.sizes[2 * POLL - 1 :] == pytest.approx([size] * (POLL + 1), abs=1)
    assert trainer.progress.size == task.sizes[-1]


def test_the_size_in_force_is_the_policys_and_not_the_probe():
    trainer, _ = timed(goodput(32).clip(8, 256))
    trainer.run(Budget(steps=POLL))

    assert trainer.progress.size == 32


@pytest.mark.parametrize("stop_at", [3, POLL, POLL + 5, 2 * POLL, 2 * POLL + 1])
def test_a_run_stopped_before_in_or_after_the_probe_asks_for_the_same_sizes(stop_at):
    whole, whole_task = timed(goodput(32).clip(8, 256))
    set_noise(whole, 50.0)
    whole.run(Budget(steps=3 * POLL))
    one, one_task = timed(goodput(32).clip(8, 256))
    set_noise(one, 50.0)
    one.run(Budget(steps=stop_at))
    other, other_task = timed(goodput(32).clip(8, 256))
    state = one.state_dict()
    other.load_state_dict({**state, "clock": json.loads(json.dumps(state["clock"]))})
    other.run(Budget(steps=3 * POLL - stop_at))

    assert one_task.sizes + other_task.sizes == whole_task.sizes
    assert torch.equal(other.step.model.weight, whole.step.model.weight)


def test_all_energy_of_a_stretch_is_spent_and_its_first_step_is_no_part_of_the_line():
    trainer, _ = timed(energy_goodput(32).clip(8, 256))
    before = trainer.stats.joules
    for _ in range(3):
        trainer.run(Budget(steps=2))

    assert before == 12  # two halves of a batch, measured apart
    assert trainer.stats.joules == 12 + 6 * 8
    assert trainer.stats.steps == 3  # the second step of each stretch


def test_what_goes_by_between_two_stretches_is_not_spent():
    trainer, task = timed(energy_goodput(32).clip(8, 256))
    task.machine.joules += 1e6
    trainer.run(Budget(steps=2))

    assert trainer.stats.joules == 12 + 2 * 8


@pytest.mark.parametrize(("joules", "steps"), [(8.0, 1), (8.1, 2), (80.0, 10)])
def test_a_budget_in_joules_ends_with_the_step_that_uses_it_up(joules, steps):
    trainer, _ = timed(fixed(32))

    assert trainer.run(Budget(joules=joules)).steps == steps


def test_a_budget_in_joules_without_a_meter_is_refused():
    trainer, _ = timed(fixed(32), meter=False)

    with pytest.raises(SettingsError, match=r"budget of 5 J needs a meter.*set training\.watts") as refused:
        trainer.run(Budget(joules=5.0))
    assert refused.value.key == "training.watts"


def report(losses, units=None):
    units = None if units is None else torch.tensor(units)
    total = float(len(losses)) if units is None else float(units.sum())
    return StepReport(len(losses), total, [Seen({"loss": torch.tensor(losses)}, units)])


def test_losses_are_told_once_a_poll_and_count_as_if_told_each_step():
    told, expected = Stats(half_life_rows=10), Stats(half_life_rows=10)
    measuring = Measuring(told, {"loss"}, None, lambda: 0.0)
    for losses, units in (([1.0, 3.0], None), ([2.0, 8.0], [3.0, 1.0]), ([float("nan")], None)):
        measuring.after_step(report(losses, units), 0.0, warm=True)
    expected.observe_loss(2.0, 2)
    expected.observe_loss(3.5, 2)

    assert told.loss is None
    measuring.tell_losses()
    assert (told.loss, told.set_aside) == (expected.loss, 1)
    measuring.tell_losses()
    assert told.loss == expected.loss


def test_devices_of_a_client_add_their_losses_up():
    told = Stats()
    measuring = Measuring(
        told, {"loss"}, None, lambda: 0.0, total=lambda sums: {name: 2 * one for name, one in sums.items()}
    )
    measuring.after_step(StepReport(4, 4.0, [Seen({"loss": torch.tensor([1.0, 3.0])}, None)]), 0.0, warm=True)
    measuring.after_step(StepReport(4, 4.0, []), 0.0, warm=True)  # a rank whose shard was empty
    measuring.tell_losses()

    assert told.loss == pytest.approx(2.0 * 0.5, rel=1e-3)


def test_cabs_reads_losses_where_it_is_asked():
    trainer, _ = timed(cabs(32).clip(8, 256))
    trainer.run(Budget(steps=5))

    assert trainer.stats.loss is not None
