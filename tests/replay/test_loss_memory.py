"""Rows that cost more are drawn more often, from the moment their losses count, and weigh so much the less."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.kept_states import KeptStates
from fedmb.replay.loss_memory import LossMemory
from fedmb.replay.remembered import RemembersLosses
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import capacity_for

SCHEMA = {"row": Column("int64")}
WINDOW = 60
EVERY = 4


def memory(**settings) -> LossMemory:
    ring = Ring.in_memory(SCHEMA, capacity_for(WINDOW))
    return LossMemory(ring, WINDOW, **{"seed": 5, "client": 1, "every": EVERY, **settings})


def loss(rows: np.ndarray) -> np.ndarray:
    return (rows % 10).astype(np.float32)


def learn(one: LossMemory, count: int = 10, losses=loss, *, tell: bool = True) -> range:
    """One batch of fresh rows, remembered and told."""
    numbers = one.append({"row": np.arange(one.appended, one.appended + count)})
    rows = np.array(numbers, np.int64)
    one.expect(rows)
    if tell:
        one.hear(one.batches - 1, losses(rows))
    return numbers


def probabilities(losses: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    powers = (np.maximum(losses, 0) + 1e-6) ** alpha
    return powers / powers.sum()


def drawn(one: LossMemory, draws: int = 300, size: int = 100) -> np.ndarray:
    """How often each row of the stream was drawn."""
    return sum(np.bincount(one.sample(size, draw).columns["row"], minlength=one.appended) for draw in range(draws))


def test_it_is_a_memory_of_losses():
    assert isinstance(memory(), RemembersLosses)


def test_nothing_is_drawn_before_its_loss_counts():
    one = memory()
    sizes = []
    for _ in range(3 * EVERY):
        learn(one)
        sizes.append(len(one))

    assert sizes == [0, 0, 0, 40, 40, 40, 30, 60, 50, 40, 30, 60]  # of the window's 60 rows those whose losses count
    with pytest.raises(NotEnoughData, match="tell the losses"):
        memory().sample(1, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_rows_are_drawn_in_proportion_to_a_power_of_their_loss(alpha):
    one = memory(alpha=alpha)
    for _ in range(2 * EVERY):
        learn(one)
    times = drawn(one)
    expected = 30_000 * probabilities(loss(np.arange(20, 80)), alpha)
    likely = expected > 5

    assert times[:20].sum() == 0  # they left the window
    found = (((times[20:] - expected) ** 2 / expected)[likely].sum() - likely.sum()) / np.sqrt(2 * likely.sum())
    assert found < 3
    assert times[20:][~likely].sum() < 20


def test_weights_undo_the_bias():
    one = memory(alpha=0.7, beta=1.0)
    for _ in range(2 * EVERY):
        learn(one, losses=lambda rows: loss(rows) + 1)
    numbers = np.arange(20, 80)
    sums, weight = 0.0, 0.0
    for draw in range(400):
        batch = one.sample(50, draw)
        sums += float((batch.units * batch.columns["row"]).sum())
        weight += float(batch.units.sum())
        expected = 1 / (60 * probabilities(loss(numbers) + 1, 0.7)[batch.columns["row"] - 20])
        np.testing.assert_allclose(batch.units, expected, rtol=1e-5)

    assert weight / 20_000 == pytest.approx(1, abs=0.01)
    assert sums / weight == pytest.approx(numbers.mean(), abs=0.3)


def test_a_beta_of_zero_gives_no_units():
    one = memory(beta=0.0)
    for _ in range(EVERY):
        learn(one)

    assert one.sample(5, 0).units is None


def test_a_replayed_row_gets_the_loss_of_that_moment_and_the_last_of_several_counts():
    one = memory()
    for _ in range(EVERY):
        learn(one, losses=lambda rows: np.ones(len(rows), np.float32))
    learn(one, tell=False)
    one.expect(np.array([*range(40, 50), 33, 37, 33]))
    one.hear(one.batches - 1, np.float32([1] * 10 + [5, 8, 6]))
    before = one._losses[[33, 37]].tolist()
    for _ in range(EVERY - 1):
        learn(one)

    assert before == [1, 1]
    assert one._losses[[33, 37]].tolist() == [6, 8]


def test_what_is_not_finite_or_of_no_interest_changes_nothing():
    one = memory()
    learn(one, tell=False)
    one.expect(np.array([-1, *range(1, 10)]))
    one.hear(0, np.float32([9, np.nan, np.inf, -3, *range(6)]))
    one.hear(0, np.full(10, 7, np.float32))  # told already
    one.hear(99, np.full(10, 7, np.float32))
    for _ in range(EVERY - 1):
        learn(one)

    assert len(one) == 37
    assert np.isnan(one._losses[:3]).all()
    assert one._losses[3] == -3
    assert drawn(one, draws=50)[3] == 0  # a loss below zero counts as none


def test_telling_early_or_late_draws_the_same_rows():
    early, late, found = memory(), memory(), []
    pending = []
    for draw in range(5 * EVERY):
        for one in (early, late):
            if one is late and late.wants_losses:
                for batch, losses in pending:
                    late.hear(batch, losses)
                pending.clear()
            size = min(6, len(one))
            found.append(one.sample(size, draw).columns["row"].tolist() if size else [])
            rows = np.concatenate([np.array(one.append({"row": np.arange(10 * draw, 10 * draw + 10)})), one.drawn])
            one.expect(rows)
            losses = loss(rows) + draw
            if one is early:
                one.hear(draw, losses)
            else:
                pending.append((draw, losses))

    assert found[::2] == found[1::2]
    assert any(found)


def test_losses_are_asked_for_only_when_they_begin_to_count():
    one, asked = memory(), []
    for _ in range(2 * EVERY):
        asked.append(one.wants_losses)
        for batch in list(one._expected) if one.wants_losses else []:
            one.hear(batch, np.ones(10, np.float32))
        learn(one, tell=False)

    assert asked == [False] * EVERY + [True] + [False] * (EVERY - 1)


def test_losses_that_are_never_told_are_not_waited_for_for_ever():
    one = memory()
    for _ in range(50 * EVERY):
        learn(one, tell=False)

    assert len(one._expected) <= 2 * EVERY


def test_lost_losses_leave_every_row_alike_and_are_told(tmp_path, caplog):
    one = memory(states=KeptStates(tmp_path))
    for _ in range(2 * EVERY):
        learn(one)
    name = one.kept_losses()
    (tmp_path / name).unlink()

    one.rewind(80)
    one.restore_losses(name)

    assert "losses of remembered rows were not found" in caplog.text
    assert len(one) == WINDOW
    assert set(one.sample(2000, 0).units.tolist()) == {1.0}


def test_many_rows_at_once_and_a_batch_without_rows_are_fine():
    one = memory()
    learn(one, count=500)
    learn(one, count=0)
    learn(one, count=1)
    learn(one, count=130)

    assert len(one) == WINDOW
    assert one.sample(200, 0).columns["row"].min() == 631 - WINDOW


def test_what_contradicts_itself_is_refused():
    for wrong in ({"every": 0}, {"seed": -1}, {"alpha": -1.0}, {"beta": 1.5}):
        with pytest.raises(SettingsError):
            memory(**wrong)
    with pytest.raises(SettingsError, match="window must be 1"):
        LossMemory(Ring.in_memory(SCHEMA, 10), 11, seed=0, client="a")
    with pytest.raises(ValueError, match="1 row or more"):
        memory().sample(0, 0)
