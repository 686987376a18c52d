"""Known ways of getting mini-batches wrong: those that no other test names, and the page that lists them all."""

from __future__ import annotations

import ast
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from small_regression import columns, fresh, stepper, weights
from torch import nn

from fedmb.batch.minibatch import MiniBatch
from fedmb.batch.table import TableSource
from fedmb.sizing.clocks import Follow
from fedmb.sizing.learning_rate import linear
from fedmb.sizing.schedule import warmup
from fedmb.training import microbatch
from fedmb.training.guard import Clip, Verdict
from fedmb.training.microbatch import Split
from fedmb.training.precision import Precision
from fedmb.training.regularize import Proximal
from fedmb.training.rollback import RollbackPoint
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "pitfalls.md"
PITFALLS = (
    "Mean of batch means, in the loss",
    "Mean of batch means, in validation",
    "Mean of sequence means, over tokens",
    "Mean of client means",
    "Last window of an epoch",
    "Window across rounds",
    "Window across clients",
    "Clipping each micro-batch",
    "Schedule moved by each micro-batch",
    "Weight decay in each micro-batch",
    "Adam's clock moved by each micro-batch",
    "Loss scale updated by each micro-batch",
    "Noise measured before unscaling",
    "Average of ratios",
    "Nominal sizes of unequal groups",
    "Heterogeneity read as noise",
    "Batch norm under accumulation",
    "Batch norm computed twice by checkpointing",
    "Batch-norm buffers averaged over clients",
    "Integer counters averaged",
    "Counters averaged by a strategy that knows none",
    "Sixteen-bit floats averaged in sixteen bits",
    "Error feedback that forgets what a dropped update carried",
    "Batch norm told by its name",
    "A batch of one row",
    "Dropped tails of small clients",
    "seed + epoch",
    "Resume in the middle of an epoch",
    "Out-of-memory handler that holds the tensors",
    "Size finder that runs nothing",
    "A CPU that kills instead of raising",
    "LAMB corrected outside its trust ratio",
    "Skipped fp16 steps counted as learnt",
    "Threads times processes beyond the cores",
    "Chunks larger than the cache",
    "Modelled joules shown as measured",
    "A verdict on large batches without its budget",
    "Learning rate not tuned to the batch",
    "Optimiser groups kept by two owners",
)


@pytest.fixture(autouse=True)
def _generators_are_put_back():
    with torch.random.fork_rng(devices=[]):
        yield


def test_gradients_left_from_a_round_before_do_not_enter_a_step():
    clean, used = fresh(), fresh()
    for parameter in used[0].parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    for model, optimizer in (clean, used):
        stepper(model, optimizer)(MiniBatch(columns(10)))

    assert torch.equal(weights(used[0]), weights(clean[0]))


def test_a_round_that_ends_early_leaves_no_gradient_waiting_for_the_next():
    model, optimizer = fresh()
    trainer = Trainer(
        stepper(model, optimizer, split=Split.fixed(4)),
        TableSource(columns(), seed=0, client="a", tail="keep"),
        size=20,
    )
    learnt = trainer.run(Budget(samples=33))  # 20 rows, and a short batch of 13 that is stepped all the same

    assert (learnt.steps, learnt.units, trainer.progress.samples) == (2, 33, 33)


def test_a_gradient_is_clipped_once_a_batch_and_not_once_a_micro_batch():
    batch, norms, moved = MiniBatch(columns(40)), [], []
    for split in (Split.whole(), Split.fixed(7)):
        model, optimizer = fresh(lr=1.0)
        before = weights(model)
        norms.append(float(stepper(model, optimizer, split=split, guard=Clip(0.5))(batch).norm))
        moved.append(weights(model) - before)
    parts = []
    for rows in microbatch.parts(batch, 7):
        model, optimizer = fresh(lr=1.0)
        before = weights(model)
        stepper(model, optimizer, guard=Clip(0.5))(rows)
        parts.append(len(rows) / 40 * (weights(model) - before))

    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert torch.allclose(moved[1], moved[0], atol=1e-6)
    assert not torch.allclose(sum(parts), moved[0], atol=1e-2)


def test_a_schedule_moves_by_the_rows_of_a_batch_and_not_by_its_micro_batches():
    rates = []
    for split in (Split.whole(), Split.fixed(3)):
        trainer = Trainer(
            stepper(*fresh(), split=split),
            TableSource(columns(), seed=0, client="a"),
            size=12,
            schedule=warmup(60, start=0.1),
        )
        rates.append([])
        for _ in range(6):
            trainer.run(Budget(steps=1))
            rates[-1].append(trainer.hyperparameters.learning_rate)

    assert rates[0] == rates[1]
    assert rates[0] == pytest.approx([0.1 * (0.1 + 0.9 * 12 * step / 60) for step in range(5)] + [0.1])


def test_weight_decay_shrinks_an_unused_weight_once_a_batch():
    model, optimizer = fresh(torch.optim.AdamW, weight_decay=0.5)
    model.register_parameter("unused", nn.Parameter(torch.ones(1)))
    optimizer.add_param_group({"params": [model.unused]})
    still = Proximal(0.0, [model.unused])
    still.add_to_gradients = lambda: setattr(model.unused, "grad", torch.zeros(1))
    stepper(model, optimizer, split=Split.fixed(2), edits=[still])(MiniBatch(columns(10)))

    assert model.unused.item() == pytest.approx(1 - 0.1 * 0.5)


def test_adams_clock_counts_batches_and_not_micro_batches():
    model, optimizer = fresh(torch.optim.Adam)
    step = stepper(model, optimizer, split=Split.fixed(2))
    for _ in range(3):
        step(MiniBatch(columns(10)))

    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


def test_noise_under_fp16_is_measured_in_true_units():
    batch = MiniBatch(columns(32))
    plain = stepper(*fresh())(batch, measure=True).groups
    scaled = stepper(*fresh(), precision=Precision("fp16", initial_scale=1024.0))(batch, measure=True).groups

    assert scaled.square_norms == pytest.approx(plain.square_norms, rel=0.02)
    assert scaled.total_square_norm == pytest.approx(plain.total_square_norm, rel=0.02)


@pytest.mark.parametrize("rows", [1, 7, 20, 50])
def test_a_client_smaller_than_its_batches_learns_every_row_of_every_epoch(rows):
    source = TableSource(columns(rows), seed=0, client="a")
    epoch = []
    while sum(map(len, epoch)) < rows:
        epoch.append(source.take(32))
    labels = np.concatenate([batch.columns["y"] for batch in epoch])

    assert sorted(labels) == columns(rows)["y"].tolist()
    assert max(map(len, epoch)) - min(map(len, epoch)) <= 1


def test_no_micro_size_is_found_without_running_the_model(monkeypatch):
    monkeypatch.setattr(microbatch, "free_bytes", lambda device: 1 << 30)
    model, ran = nn.Linear(6, 1), []

    def backward(part):
        ran.append(len(part))
        model(torch.from_numpy(part.columns["x"])).sum().backward()
        return len(part)

    split = Split.auto()
    split.run(MiniBatch(columns(4)), backward, model)
    after_small = split.state_dict()
    split.run(MiniBatch(columns(40)), backward, model)

    assert after_small == {"sizes": {}}  # too few rows for two probes: nothing is claimed
    assert ran == [4, 2, 4, 40]
    assert len(split.state_dict()["sizes"]) == 1


def test_an_fp16_overflow_is_a_batch_taken_and_not_a_batch_learnt():
    model, optimizer = fresh(lr=0.001)
    with torch.no_grad():
        model[2].bias.fill_(300.0)  # an error of 300: its gradient overflows at the first scales
    trainer = Trainer(
        stepper(model, optimizer, precision=Precision("fp16", initial_scale=2.0**16)),
        TableSource(columns(), seed=0, client="a"),
        size=10,
    )
    learnt = trainer.run(Budget(steps=12))

    assert 0 < learnt.skipped < 12
    assert learnt.units == learnt.sums()["units"] == trainer.progress.samples == 10 * (12 - learnt.skipped)


def test_rows_are_gathered_batch_by_batch_and_in_no_larger_chunk():
    table = {"x": np.zeros((50_000, 64), np.float32)}
    source = TableSource(table, seed=0, client="a")
    source.take(32)  # draws the order of the epoch
    tracemalloc.start()
    batch = source.take(32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 * batch.columns["x"].nbytes


def test_what_a_stretch_learnt_names_steps_and_units_so_that_a_verdict_can_say_which_were_equal():
    def learnt(size, **budget):
        trainer = Trainer(stepper(*fresh(lr=0.01)), TableSource(columns(), seed=0, client="a"), size=size)
        sums = trainer.run(Budget(**budget)).sums()
        return sums["steps"], sums["units"]

    assert [learnt(size, samples=60) for size in (5, 30)] == [(12, 60), (2, 60)]
    assert [learnt(size, steps=2) for size in (5, 30)] == [(2, 10), (2, 60)]


def test_a_rate_that_follows_the_rows_is_tuned_to_each_step_and_its_tail():
    trainer = Trainer(
        stepper(*fresh(lr=0.01)),
        TableSource(columns(50), seed=0, client="a", tail="keep"),
        size=20,
        follow=Follow(base=10, learning_rate=linear),
    )
    rates = []
    for _ in range(3):
        trainer.run(Budget(steps=1))
        rates.append(trainer.hyperparameters.learning_rate)

    assert rates == pytest.approx([0.02, 0.02, 0.01])  # 20, 20 and 10 rows


def test_after_a_rollback_the_schedule_still_reaches_the_optimiser():
    class Third(Clip):
        """Winds back at the third batch."""

        reads_norm = True
        asked = 0

        def judge(self, norm):
            self.asked += 1
            return Verdict.ROLLBACK if self.asked == 3 else Verdict.OK

    model, optimizer = fresh()
    step = stepper(model, optimizer, guard=Third(math.inf), rollback=RollbackPoint(model, optimizer))
    trainer = Trainer(step, TableSource(columns(), seed=0, client="a"), size=10, schedule=warmup(100, start=0.1))
    learnt = trainer.run(Budget(steps=8))

    assert learnt.rollbacks == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (0.1 + 0.9 * 60 / 100))


def table_rows():
    """Pitfall and named tests of each row of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1]) for row in cells}


def test_every_pitfall_has_a_row_in_the_page():
    assert list(table_rows()) == list(PITFALLS)


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_every_pitfall_names_a_test_that_exists(pitfall):
    named = table_rows()[pitfall]

    assert named
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"
