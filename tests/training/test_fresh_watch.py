"""Fresh rows are scored before they are learnt; an alarm is answered in the middle of a run, to the bit."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.prefetch import Prefetch
from fedmb.errors import SettingsError
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for
from fedmb.sizing.page_hinkley import PageHinkley
from fedmb.sizing.schedule import constant
from fedmb.telemetry.prequential import Prequential
from fedmb.training.drift import Drift, DriftResponse
from fedmb.training.fresh_watch import FreshWatch
from fedmb.training.guard import Finite
from fedmb.training.microbatch import Split
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer

DRIFT_AT = 1200
ALL = {"rewarm": 3.0, "rewarm_samples": 300, "shrink": 0.5, "shrink_samples": 400, "replay_share": 0.125}


class Line:
    """y = w x, where w changes its sign with the drift."""

    schema = {"x": Column("float32", (3,)), "y": Column("float32")}

    def build_model(self):
        return nn.Linear(3, 1)

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {"hit": ((outputs - rows["y"]).abs() < 0.5).float()}


class Numbers:
    """A stream of rows made from their numbers."""

    schema, examples_per_epoch = Line.schema, math.inf

    def __init__(self, poison=None):
        self.next, self.poison = 0, poison

    def take(self, size):
        numbers = np.arange(self.next, self.next + size)
        self.next += size
        x = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)[numbers % 5000]
        y = x.sum(1) * np.where(numbers < DRIFT_AT, 1, -1)
        y[numbers == self.poison] = np.nan
        return MiniBatch({"x": x, "y": y.astype(np.float32)}, origins={"stream": size})

    def position(self):
        return {"next": self.next}

    def seek(self, position):
        self.next = position.get("next", 0)

    def close(self):
        pass


def blended(share=0.5, **stream):
    ring = Ring.in_memory(Line.schema, capacity_for(512))
    return Blend(Numbers(**stream), UniformReplay(ring, 512, seed=1, client="a"), share)


def trainer(source=None, *, every=4, prequential=True, detector=True, split=None, guard=None, answers=ALL):
    torch.manual_seed(0)
    source, task = source or blended(), Line()
    model = task.build_model()
    step = TrainStep(task, model, torch.optim.SGD(model.parameters(), lr=0.02), split=split, guard=guard)
    drift = Drift(detector="page-hinkley", threshold=20.0, **answers)
    watch = FreshWatch(
        source,
        prequential=Prequential(window=200, fading=0.99) if prequential else None,
        detector=PageHinkley(threshold=20.0, min_rows=64) if detector else None,
        response=DriftResponse(drift) if detector else None,
        every=every,
        client="a",
    )
    return Trainer(step, source, size=16, watch=watch, schedule=constant(0.5))


def weights(one):
    return torch.cat([value.detach().flatten() for value in one.step.model.parameters()])


def test_the_score_is_that_of_a_plain_loop_before_each_step():
    one, losses, hits = trainer(detector=False, split=Split.fixed(5)), [], []
    by_hand, rows = trainer(detector=False), blended()
    for _ in range(40):
        batch = rows.take(16)
        fresh = batch.rows(0, batch.origins["stream"])
        with torch.no_grad():
            outputs = by_hand.step.model(torch.from_numpy(fresh.columns["x"]))[:, 0].numpy()
        losses.extend((outputs - fresh.columns["y"]) ** 2)
        hits.extend(abs(outputs - fresh.columns["y"]) < 0.5)
        by_hand.run(Budget(steps=1))
    one.run(Budget(steps=40))
    sums = one.watch.sums()

    assert sums["prequential_units"] == 200
    assert sums["prequential_loss"] == pytest.approx(sum(losses[-200:]), rel=1e-5)
    assert sums["prequential_hit"] == sum(hits[-200:])
    assert "alarms" not in sums


def test_a_drift_rings_once_is_counted_and_logged_with_its_sample(caplog):
    one = trainer()
    caplog.set_level("INFO", "fedmb")
    alarms = []
    for _ in range(20):
        one.run(Budget(steps=20))
        alarms.append(one.watch.sums()["alarms"])
    (line,) = [record.message for record in caplog.records if "drift alarm" in record.message]

    assert sum(alarms) == 1
    assert alarms[DRIFT_AT // 160] == 1  # a stretch of 20 steps has 8 fresh rows in each, after 16 without replay
    assert line.startswith("drift alarm rang client=a sample=2")


def test_an_alarm_changes_rate_size_and_share_and_puts_them_back():
    one, seen = trainer(), []
    for _ in range(400):
        learnt = one.run(Budget(steps=1))
        replayed = learnt.rows.get("replay", 0)
        seen.append((sum(learnt.rows.values()), replayed, round(one.hyperparameters.learning_rate, 4)))
    usual = (16, 8, 0.01)
    changed = [number for number, what in enumerate(seen) if what != usual and number > 10]

    assert seen[changed[0]] == (8, 1, 0.03)
    assert seen[-1] == usual
    assert changed[0] % 4 == 0


STOPS = (3, 150, 152, 160)  # before the alarm, between it and its answer, and in what it changes
COSTS = [("prefetch",), ("stop",), ("split",), ("looks",), ("prefetch", "stop", "looks")]


@pytest.mark.parametrize("costs", COSTS, ids="+".join)
def test_what_only_costs_does_not_change_what_an_alarm_leads_to(costs):
    def run(costs):
        def fresh(source):
            return Prefetch(source, 3) if "prefetch" in costs else source

        split = Split.fixed(16) if "split" in costs else None
        ring = blended()
        one = trainer(fresh(ring), split=split)
        for number in range(300):
            one.run(Budget(steps=1))
            if "looks" in costs:
                one.watch.sums()
            if "stop" in costs and number in STOPS:
                state = one.state_dict()
                state["clock"] = json.loads(json.dumps(state["clock"]))
                one = trainer(one.source, split=split)
                one.load_state_dict(state)
        state = one.clock_state()
        one.source.close()
        return weights(one), state, one.source.position()

    plain, with_costs = run(()), run(costs)

    assert plain[1]["watch"]["alarms"] == 1
    assert torch.equal(with_costs[0], plain[0])
    assert with_costs[1:] == plain[1:]


def test_a_stretch_may_end_with_the_alarm():
    learnt = trainer().run(Budget(steps=400), until_alarm=True)

    assert 150 < learnt.steps < 180


def test_a_private_table_and_replayed_rows_are_quiet():
    class Private(Numbers):
        def take(self, size):
            return MiniBatch(super().take(size).columns, origins={"private": size})

    one = trainer(Private(), answers={"rewarm": 2.0})
    one.run(Budget(steps=300))

    assert one.watch.sums() == {"alarms": 0.0}


def test_a_loss_that_is_not_finite_rings_nothing_and_poisons_nothing():
    guarded, poisoned = trainer(blended(poison=300), guard=Finite()), trainer(blended(poison=300))
    for one in (guarded, poisoned):
        one.run(Budget(steps=100))

        assert math.isfinite(one.watch.sums()["fading_loss"])
        assert one.watch.sums()["alarms"] == 0
    assert guarded.watch.state_dict()["prequential"]["set_aside"] == 0
    assert poisoned.watch.state_dict()["prequential"]["set_aside"] > 60


def test_masked_rows_are_not_scored():
    class Masked(Numbers):
        def take(self, size):
            batch = super().take(size)
            return MiniBatch(batch.columns, mask=np.arange(size) % 2 == 0, origins=batch.origins)

    one = trainer(Masked(), answers={})
    one.run(Budget(steps=4))

    assert one.watch.sums()["prequential_units"] == 4 * 8


def test_figures_are_read_every_so_many_steps_and_not_in_each():
    one, reads = trainer(every=10), itertools.count()
    inner = one.watch._sums_of
    one.watch._sums_of = lambda tested: (next(reads), inner(tested))[1]
    one.run(Budget(steps=45))

    assert next(reads) == 4


def test_contradictions_are_refused():
    answer = DriftResponse(Drift(detector="adwin", replay_share=0.2))
    with pytest.raises(SettingsError, match="got no detector"):
        FreshWatch(blended(), response=answer)
    with pytest.raises(SettingsError, match="needs a stream whose rows are remembered"):
        FreshWatch(Numbers(), detector=PageHinkley(), response=answer)
    with pytest.raises(SettingsError, match="every 1 or more steps"):
        FreshWatch(blended(), every=0)
    with pytest.raises(ValueError, match="it belongs elsewhere"):
        trainer().watch.load_state_dict({"has_rung": False, "alarms": 0})
