"""A memory that draws by loss hears what each row cost before the step that learnt it; its weights are exact units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.loss_listener import LossListener, listener_of
from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource
from fedmb.replay.blend import Blend
from fedmb.replay.kept_states import KeptStates
from fedmb.replay.loss_memory import LossMemory
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for
from fedmb.training.distributed import Ranks
from fedmb.training.guard import Finite
from fedmb.training.microbatch import Split
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.told_source import ToldSource
from fedmb.training.trainer import Trainer

WINDOW = 200
EVERY = 4


class Line:
    """y = w x with an offset that some rows have, which are hard for ever."""

    schema = {"x": Column("float32", (3,)), "y": Column("float32"), "row": Column("int64")}

    def build_model(self):
        return nn.Linear(3, 1)

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


class Numbers:
    schema, examples_per_epoch = Line.schema, math.inf

    def __init__(self, poison=None, hidden=0):
        self.next, self.poison, self.hidden = 0, poison, hidden

    def take(self, size):
        numbers = np.arange(self.next, self.next + size)
        self.next += size
        x = np.random.default_rng(0).standard_normal((3000, 3)).astype(np.float32)[numbers]
        y = (x.sum(1) + 3 * (numbers % 10 == 0)).astype(np.float32)
        y[numbers == self.poison] = np.nan
        mask = numbers % self.hidden > 0 if self.hidden else None
        return MiniBatch({"x": x, "y": y, "row": numbers}, mask=mask, origins={"stream": size})

    def position(self):
        return {"next": self.next}

    def seek(self, position):
        self.next = position.get("next", 0)

    def close(self):
        pass


def remembering(states=None, ring=None, **stream):
    ring = ring or Ring.in_memory(Line.schema, capacity_for(WINDOW))
    states = states or KeptStates(keep=None)
    memory = LossMemory(ring, WINDOW, beta=1.0, seed=1, client="a", every=EVERY, states=states)
    return Blend(Numbers(**stream), memory, 0.5), memory


def trainer(blend, *, split=None, guard=None):
    torch.manual_seed(0)
    task = Line()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.02), split=split, guard=guard)
    return Trainer(step, blend, size=12)


def weights(one):
    return one.step.model.weight.detach().clone()


def test_it_is_a_source_around_whoever_listens():
    blend, memory = remembering()
    ring = Ring.in_memory(Line.schema, 20)
    deaf = Blend(Numbers(), UniformReplay(ring, 20, seed=0, client="a"), 0.5)

    assert isinstance(blend, LossListener)
    assert isinstance(ToldSource.around(blend, blend, Ranks()), BatchSource)
    assert isinstance(trainer(blend).source, ToldSource)
    for other in (deaf, Numbers(), TableSource({"x": np.zeros(3)}, seed=0, client="a"), Blend(Numbers(), memory, 0)):
        assert listener_of(other) is None
        assert ToldSource.around(other, other, Ranks()) is None


@pytest.mark.parametrize("split", [None, Split.fixed(5)])
def test_every_row_has_the_loss_it_had_before_it_was_learnt(split):
    blend, memory = remembering(hidden=7)
    one = trainer(blend, split=split)
    by_hand, (rows, _) = trainer(remembering(hidden=7)[0]), remembering(hidden=7)
    expected = {}
    for _ in range(3 * EVERY):
        batch = rows.take(12)
        with torch.no_grad():
            outputs = by_hand.step.model(torch.from_numpy(batch.columns["x"]))[:, 0].numpy()
        losses = (outputs - batch.columns["y"]) ** 2
        seen = batch.effective_units() > 0
        expected |= dict(zip(batch.columns["row"][seen].tolist(), losses[seen].tolist(), strict=True))
        rows.hear(rows.batches - 1, losses)
        by_hand.run(Budget(steps=1))
    one.run(Budget(steps=3 * EVERY))
    one.source.position()
    kept = [row for row in range(blend.position()["fresh"]["next"]) if row % 7]

    found = {row: float(memory._losses[number]) for number, row in enumerate(kept)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(found) > 60


def test_hard_rows_are_replayed_more_often():
    blend, _ = remembering()
    one, times = trainer(blend), np.zeros(2)
    original = blend.take

    def counting(size):
        batch = original(size)
        rows = batch.columns["row"][batch.origins["stream"] :]
        times[:] += (rows % 10 == 0).sum(), (rows % 10 > 0).sum()
        return batch

    blend.take = counting
    one.run(Budget(steps=150))

    assert times[0] > times[1] / 9 * 3  # a tenth of the rows


@pytest.mark.parametrize("cut", [None, Split.fixed(1), Split.fixed(5), Split.fixed(11)])
def test_importance_weights_are_units_of_the_gradient_for_any_split(cut):
    blend, _ = remembering()
    one = trainer(blend)
    one.run(Budget(steps=2 * EVERY))
    one.source.position()
    batch = blend.take(12)
    model = one.step.model
    per_row = []
    for row in range(len(batch)):
        model.zero_grad()
        rows = {name: torch.from_numpy(array[row : row + 1]) for name, array in batch.columns.items()}
        Line().loss(Line().forward(model, rows), rows).sum().backward()
        per_row.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double())
    units = torch.from_numpy(batch.units).double()
    expected = (torch.stack(per_row) * units[:, None]).sum(0) / units.sum()
    replayed = batch.units[batch.origins["stream"] :]

    report = TrainStep(Line(), model, torch.optim.SGD(model.parameters(), lr=0.0), split=cut)(batch)

    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert report.units == pytest.approx(float(units.sum()))
    assert np.ptp(replayed) > 0.1
    assert (batch.units[: batch.origins["stream"]] == 1).all()


def test_stopping_after_any_step_and_going_on_in_a_new_process_learns_the_same(tmp_path):
    steps = 5 * EVERY
    whole = trainer(remembering()[0])
    whole.run(Budget(steps=steps))

    for stop in range(steps):
        states, path = KeptStates(tmp_path / "states"), tmp_path / f"ring-{stop}"
        ring = Ring.mapped(path, Line.schema, capacity_for(WINDOW))
        first = trainer(remembering(states, ring)[0])
        if stop:
            first.run(Budget(steps=stop))
        state = first.state_dict()
        first.run(Budget(steps=3))  # what no checkpoint knows
        ring.close()
        ring = Ring.mapped(path, Line.schema, capacity_for(WINDOW))
        second = trainer(remembering(KeptStates(tmp_path / "states"), ring)[0])
        second.load_state_dict(state)
        second.run(Budget(steps=steps - stop))
        assert torch.equal(weights(second), weights(whole)), f"stopped after {stop}"
        ring.close()


def test_looking_at_the_position_changes_nothing():
    one, other = trainer(remembering()[0]), trainer(remembering()[0])
    for _ in range(4 * EVERY):
        one.run(Budget(steps=1))
        one.source.position()
        one.state_dict()
    other.run(Budget(steps=4 * EVERY))

    assert torch.equal(weights(one), weights(other))


def test_a_reading_is_made_only_when_losses_begin_to_count():
    blend, memory = remembering()
    heard = []
    original = memory.hear
    memory.hear = lambda batch, losses: (heard.append((memory.batches, batch)), original(batch, losses))

    trainer(blend).run(Budget(steps=2 * EVERY + 2))

    assert heard == [(EVERY + batch // EVERY * EVERY, batch) for batch in range(2 * EVERY)]


def test_rows_of_a_batch_that_was_thrown_away_are_never_drawn():
    blend, memory = remembering(poison=30)
    one = trainer(blend, guard=Finite())
    one.run(Budget(steps=4 * EVERY))
    one.source.position()
    unknown = np.flatnonzero(np.isnan(memory._losses[: memory.appended]))

    assert 30 in unknown
    assert len(unknown) <= 12
    assert all(30 not in blend.take(12).columns["row"] for _ in range(30))


def test_a_seek_forgets_what_was_not_told():
    blend, memory = remembering()
    one = trainer(blend)
    one.run(Budget(steps=EVERY + 1))
    position = one.source.position()
    one.run(Budget(steps=2))

    one.source.seek(position)
    one.source.position()

    assert memory.batches == EVERY + 1
    assert one.source._pending == []
