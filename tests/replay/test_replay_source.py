import json
import math

import numpy as np
import pytest
from modelled_table import SCHEMA, rows, same_rows
from small_regression import Curve, fresh, stepper, weights
from small_regression import columns as curve_columns

from fedmb.batch.loss_listener import listener_of
from fedmb.batch.mixture import Mixture
from fedmb.batch.source import BatchSource
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_buffer import ReplayBuffer
from fedmb.replay.replay_source import EVERY, ReplaySource
from fedmb.replay.replay_table import ReplayTable
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer


def table_of(count=9, **parts):
    table = ReplayTable(SCHEMA, 20, **parts)
    table.append(rows(0, count))
    return table


def source_of(table, **parts):
    return ReplaySource(table, **{"seed": 3, "client": "a", **parts})


def test_a_batch_is_a_draw_and_its_units_are_importance_weights():
    source = source_of(table_of(sampler=Prioritized(beta=1.0)))

    batch = source.take(6)

    assert isinstance(source, BatchSource)
    assert same_rows(batch.columns)
    assert batch.units.dtype == np.float32
    assert batch.origins == {"replay": 6}
    assert (source.schema, source.examples_per_epoch) == (SCHEMA, math.inf)


def test_equal_content_gives_equal_rows_whatever_the_table_went_through():
    one, other = table_of(seed=1), table_of(seed=2)
    other.sample(77)
    first, second = source_of(one), source_of(other)

    for _ in range(5):
        assert first.take(4).columns["number"].tolist() == second.take(4).columns["number"].tolist()


def test_draws_depend_on_seed_client_and_number():
    def taken(**names):
        return source_of(table_of(), **names).take(12).columns["number"].tolist()

    assert taken() == taken()
    assert len({str(taken()), str(taken(seed=4)), str(taken(client="b")), str(taken(client=0))}) == 4
    source = source_of(table_of())
    assert len({str(source.take(12).columns["number"].tolist()) for _ in range(5)}) == 5


def test_ids_travel_with_the_rows_where_they_are_asked_for():
    source = source_of(table_of(), id_column="id")

    batch = source.take(6)

    assert source.schema["id"].dtype == "int64"
    assert batch.columns["id"].tolist() == batch.columns["number"].tolist()
    with pytest.raises(ShapeError, match="a column of ids must be new, got 'number'"):
        source_of(table_of(), id_column="number")


def test_losses_become_priorities_at_the_next_sixteenth_draw():
    table = table_of(sampler=Prioritized(1.0, epsilon=0.0))
    source = source_of(table, prioritizes=True)
    assert listener_of(source) is source

    for number in range(EVERY):
        assert not source.wants_losses
        batch = source.take(5)
        assert source.batches == number + 1
        losses = np.where(batch.columns["number"] == 4, 2.0, 0.0).astype(np.float32)
        if number % 2:
            losses[0] = np.nan
        source.hear(number, losses)
    assert table.statistics().reprioritized == 0
    assert not source.wants_losses

    assert 4 in source.take(9).columns["number"].tolist()
    known = table.statistics().reprioritized
    assert known > 30
    with pytest.raises(ShapeError, match="there must be a loss for each of 9 rows of draw 16"):
        source.hear(EVERY, np.zeros(8, np.float32))
    source.hear(3, np.zeros(5, np.float32))  # of long ago: nobody's
    assert table.statistics().reprioritized == known


def test_losses_are_wanted_where_the_next_draw_depends_on_them():
    source = source_of(table_of(sampler=Prioritized()), prioritizes=True)
    for _ in range(EVERY):
        source.take(2)

    assert source.wants_losses
    for number in range(EVERY):
        source.hear(number, np.ones(2, np.float32))
    assert not source.wants_losses
    assert listener_of(source_of(table_of())) is None


@pytest.mark.parametrize("stop", range(0, 40, 3))
def test_stopping_anywhere_with_a_snapshot_of_the_table_goes_on_bitwise(stop):
    def step(source):
        number, batch = source.batches, source.take(4)
        source.hear(number, batch.columns["number"].astype(np.float32) / 3 + number)
        return batch.columns["number"].tolist(), batch.units.tolist()

    def fresh():
        return table_of(sampler=Prioritized())

    table = fresh()
    source = source_of(table, prioritizes=True)
    for _ in range(stop):
        step(source)
    state, position = table.state_dict(), json.loads(json.dumps(source.position(), allow_nan=False))
    seen = [step(source) for _ in range(EVERY + 2)]

    other = fresh()
    other.load_state_dict(state)
    resumed = source_of(other, prioritizes=True)
    resumed.seek(position)

    assert resumed.position() == position
    assert [step(resumed) for _ in range(EVERY + 2)] == seen


def test_a_mixture_of_tables_learns_from_all_of_them():
    sources = {name: source_of(table_of(name=name), client=name) for name in "ab"}
    mixture = Mixture(sources, weights={"a": 1, "b": 3}, task_column="table", seed=1, client="a")

    batch = mixture.take(40)

    assert np.bincount(batch.columns["table"]).tolist() == [10, 30]
    assert batch.origins == {"replay": 40}


def test_a_buffer_is_a_source_too():
    buffer = ReplayBuffer({"a": table_of(name="a", sampler=Prioritized()), "b": table_of(name="b")})
    source = source_of(buffer, prioritizes=True, id_column="id")
    for number in range(EVERY):
        batch = source.take(8)
        source.hear(number, np.ones(8, np.float32))

    source.take(8)

    assert set((batch.columns["id"] % 2).tolist()) == {0, 1}
    assert buffer.statistics()["a"].reprioritized > 0
    assert buffer.statistics()["b"].reprioritized > 0


def test_a_limiter_that_lets_nothing_out_is_a_stream_that_is_silent():
    source = source_of(table_of(3, limiter=RateLimiter.min_rows(5)), patience_seconds=0)

    with pytest.raises(NotEnoughData, match="must hold min_size = 5 rows"):
        source.take(2)

    assert source.position()["draws"] == 0


def test_a_position_of_another_source_is_refused():
    source = source_of(table_of())
    source.take(1)

    for wrong in ({"draws": 1}, {"draws": -1, "table": "table"}, {"draws": True, "table": "table"}, {"ledger": {}}):
        with pytest.raises(ValueError, match="a replay source's position must be"):
            source.seek(wrong)
    with pytest.raises(ValueError, match="a position must be of table 'table', got 'other'"):
        source.seek({"draws": 1, "table": "other"})
    assert source.position() == {"draws": 1, "table": "table"}


@pytest.mark.parametrize(("key", "value"), [("seed", -1), ("patience_seconds", -1.0), ("patience_seconds", math.nan)])
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(SettingsError, match=f"{key} must be 0 or more, got {value}") as refused:
        source_of(table_of(), **{key: value})

    assert refused.value.key == key


def test_closing_closes_the_table():
    source = source_of(table_of())

    source.close()

    with pytest.raises(ValueError, match="a table must be open"):
        source.take(1)


def trainer():
    table = ReplayTable(Curve.schema, 60, sampler=Prioritized(beta=1.0))
    table.append(curve_columns(60))
    return Trainer(stepper(*fresh(lr=0.02)), source_of(table, prioritizes=True), size=8), table


def test_a_trainer_that_stops_and_goes_on_with_its_table_learns_the_same_bits():
    whole, table = trainer()
    whole.run(Budget(steps=3 * EVERY))
    assert table.statistics().reprioritized > 100

    first, table = trainer()
    first.run(Budget(steps=EVERY + 5))
    state, rows_then = first.state_dict(), table.state_dict()
    resumed, table = trainer()
    table.load_state_dict(rows_then)
    resumed.step.model.load_state_dict(first.step.model.state_dict())
    resumed.load_state_dict(state)
    resumed.run(Budget(steps=2 * EVERY - 5))

    assert weights(resumed.step.model).tolist() == weights(whole.step.model).tolist()
