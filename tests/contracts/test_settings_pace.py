"""What names under `[training.sizing]` and `[training.learning_rate]` ask for: sizes that move, rates that follow."""

import numpy as np
import pytest
import torch
from small_regression import Curve

from fedmb.batch.table import TableSource
from fedmb.sizing.stats import Stats
from fedmb.telemetry import energy
from fedmb.telemetry.energy import Energy
from fedmb.training.recipe import Training
from fedmb.training.stretch import Budget

ROWS = 96
BASE = {"base_size": 16}


def built(**training):
    """The trainer of these settings."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, 6)).astype(np.float32)
    rows = TableSource({"x": x, "y": (x.sum(1) + random.standard_normal(ROWS)).astype(np.float32)}, seed=3, client="a")
    settings = Training(**training)
    model = settings.build_model(Curve())
    return settings.build_trainer(Curve(), model, rows, settings.build_pacing(model, rows), torch.device("cpu"))


def applied(trainer, *, samples=0, rows=32, noise=None):
    """The optimiser's first group for a step of `rows` after `samples` rows."""
    stats = Stats()
    if noise:
        stats.observe_groups([8, 8], [1 + noise / 8, 1 + noise / 8], 1 + noise / 16)
    trainer.hyperparameters.apply(samples, rows, stats)
    return trainer.step.optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ({"rate": 0.3}, 0.3),
        ({"scaling": "linear", **BASE}, 0.2),
        ({"scaling": "sqrt", **BASE}, 0.1 * 2**0.5),
        ({"warmup_samples": 100, "warmup_start": 0.2}, 0.1 * 0.6),
        ({"decay": "cosine", "decay_samples": 100}, 0.05),
        ({"decay": "steps", "drops": {50: 0.1}}, 0.01),
        ({"scaling": "legw", "warmup_samples": 100, **BASE}, 0.1 * 2**0.5 * 0.25),
    ],
)
def test_schedule_and_scaling_reach_the_rate(rate, expected):
    assert applied(built(learning_rate=rate), samples=50)["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("scaling", "optimizer", "power"), [("gain", "sgd", 1.0), ("adam_gain", "adam", 0.5)])
def test_a_gain_follows_the_noise(scaling, optimizer, power):
    trainer = built(optimizer=optimizer, learning_rate={"scaling": scaling, **BASE})

    assert applied(trainer, noise=48)["lr"] == pytest.approx(0.1 * ((1 + 48 / 16) / (1 + 48 / 32)) ** power)


@pytest.mark.parametrize(
    ("sizing", "size"),
    [
        ({"kind": "fixed", "size": 24}, 24),
        ({"kind": "full"}, ROWS),
        ({"kind": "milestones", "milestones": {0: 8, 100: 24}}, 24),
        ({"kind": "ramp", "size": 8, "stop_size": 40, "samples": 100}, 40),
        ({"kind": "ada_batch", "size": 8, "every_samples": 100, "max_size": 16}, 16),
    ],
)
def test_a_planned_size_moves(sizing, size):
    trainer = built(sizing=sizing, steps=1)
    trainer.run(Budget(steps=40))

    assert trainer.progress.size == size


def test_instead_of_decay_moves_the_size_and_not_the_rate():
    decay = {"decay": "steps", "drops": {100: 0.5}}
    trainer = built(sizing={"kind": "instead_of_decay", "size": 8, "max_size": 32}, learning_rate=decay)
    trainer.run(Budget(steps=40))

    assert (trainer.progress.size, trainer.progress.learning_rate) == (16, 0.1)


@pytest.mark.parametrize(
    ("sizing", "size"),
    [
        ({"kind": "mccandlish"}, 50),
        ({"kind": "norm_test", "theta": 0.5}, 200),  # 50 / 0.5^2
        ({"kind": "cabs"}, 40),  # 0.1 * 800 / 2
        ({"kind": "goodput"}, 71),  # sqrt(50 * 100)
        ({"kind": "energy_goodput"}, 32),  # sqrt(50 * 20) = 31.6
        ({"kind": "energy_budget", "joules": 125.0, "samples": 2_000}, 80),  # (1 + 80 / 20) / 80 J a row
    ],
)
def test_a_measured_size_moves(monkeypatch, sizing, size):
    """Noise 50 (trace 800), loss 2, a step of 100 + B milliseconds and 1 + B / 20 joules."""
    monkeypatch.setattr(energy, "available_meter", lambda watts: Spent())
    trainer = built(sizing={"max_size": 512, "growth": 4.0, **sizing}, watts=40)
    trainer.stats.observe_groups([8, 8], [116.0, 116.0], 66.0)
    for rows in (16, 64):
        trainer.stats.observe_step(rows, 0.1 + 0.001 * rows, 1.0 + rows / 20)
        trainer.stats.observe_loss(2.0, rows)
    asked = trainer.size(trainer.progress, trainer.stats)

    assert asked == size
    assert trainer.noise_every == (0 if sizing["kind"] == "energy_budget" else 500)


class Spent:
    """A meter that stands still."""

    def used(self):
        return Energy(0.0, "modelled")
