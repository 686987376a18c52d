"""Rows that were drawn on a device are learnt there, their weights as units, their losses as priorities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.batch.source import BatchSource
from fedmb.training.device_prioritized import DevicePrioritized
from fedmb.training.device_ring import DeviceRing
from fedmb.training.microbatch import Split
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer


def test_a_mini_batch_holds_the_very_tensors_and_the_weights_as_units():
    one = DeviceRing({"x": Column("float32", (2,))}, 8, device="cpu", sampler=DevicePrioritized(1.0, 1.0))
    one.append({"x": np.arange(16, dtype=np.float32).reshape(8, 2)}, priorities=np.arange(8.0))
    sample = one.sample(5)

    batch = sample.minibatch()

    assert len(sample) == len(batch) == 5
    assert batch.columns["x"] is sample.columns["x"]
    assert batch.units.tolist() == sample.weights.tolist()
    assert batch.origins == {"replay": 5}


class Line:
    schema = {"x": Column("float32", (3,)), "y": Column("float32")}

    def build_model(self):
        return nn.Linear(3, 1)

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


def learner(sampler=None, split=None):
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 3)).astype(np.float32)
    hard = np.arange(300) % 10 == 0
    one = DeviceRing(Line.schema, 300, device="cpu", sampler=sampler)
    one.append({"x": x, "y": (x.sum(1) + 3 * hard).astype(np.float32)})
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    step = TrainStep(Line(), model, torch.optim.SGD(model.parameters(), lr=0.05), split=split)
    source = one.source(seed=0, client=0, prioritizes=sampler is not None)
    assert isinstance(source, BatchSource)
    return Trainer(step, source, size=32), one, hard


@pytest.mark.parametrize("split", [None, Split.fixed(7), Split.auto()])
def test_a_trainer_learns_from_a_ring(split):
    trainer, one, _ = learner(split=split)

    learnt = trainer.run(Budget(samples=32 * 100))

    assert learnt.rows == {"replay": 3200}
    assert one.statistics().sampled == 3200
    assert trainer.step.model.weight.detach().numpy() == pytest.approx(np.ones((1, 3)), abs=0.15)


def test_losses_become_priorities_and_weights_the_units_of_the_gradient():
    trainer, one, hard = learner(DevicePrioritized(1.0, 1.0))

    trainer.run(Budget(samples=32 * 150))

    leaves = one._sampler.leaves.numpy()
    assert one.statistics().reprioritized > 3000
    assert leaves[hard].min() > 10 * np.median(leaves[~hard])
    assert trainer.step.model.weight.detach().numpy() == pytest.approx(np.ones((1, 3)), abs=0.15)  # undone by weights
    assert trainer.step.model.bias.item() == pytest.approx(0.3, abs=0.4)


def test_a_trainer_that_stopped_goes_on_to_the_bit_with_its_ring():
    whole, *_ = learner(DevicePrioritized())
    whole.run(Budget(samples=32 * 40))
    stopped, one, _ = learner(DevicePrioritized())
    stopped.run(Budget(samples=32 * 21))
    states = stopped.state_dict(), one.state_dict()

    resumed, other, _ = learner(DevicePrioritized())
    other.load_state_dict(states[1])
    resumed.load_state_dict(states[0])
    resumed.run(Budget(samples=32 * 19))

    assert whole.step.model.weight.tolist() == resumed.step.model.weight.tolist()
