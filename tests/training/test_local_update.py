import math

import numpy as np
import pytest
import torch

from fedmb.batch.minibatch import MiniBatch
from fedmb.batch.table import TableSource
from fedmb.errors import Diverged, NotEnoughData, ShapeError
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.round_terms import RoundTerms


def table(count=100, seed=0):
    rows = Digits().train_rows()
    return TableSource({name: array[:count] for name, array in rows.items()}, seed=seed, client="a")


def local(source=None, client="a", seed=0, **training):
    return LocalUpdate(Digits(), source or table(), Training.plain(**training), client=client, seed=seed)


def run(trainer, version=0, position=None):
    return trainer.run(initial_arrays(Digits(), 0), base_version=version, position=position or {})


def figures(update):
    return {name: value for name, value in update.sums.items() if "seconds" not in name}


class Silent:
    """A stream on which nothing arrives after `rows` rows."""

    schema = Digits.schema
    examples_per_epoch = math.inf

    def __init__(self, rows=0):
        self.left = rows

    def take(self, size):
        if not self.left:
            raise NotEnoughData("nothing arrived; wait longer")
        taken = min(size, self.left)
        self.left -= taken
        part = {name: array[:taken] for name, array in Digits().train_rows().items()}
        return MiniBatch(part, origins={"stream": taken})

    def position(self):
        return {}

    def seek(self, position):
        pass

    def close(self):
        pass


def test_a_round_repeats_bit_for_bit_in_a_new_object():
    first = run(local(batch_size=16, steps=7), version=3)
    second = run(local(batch_size=16, steps=7), version=3)

    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    assert figures(first) == figures(second)


def test_a_round_does_not_depend_on_earlier_rounds_of_the_process():
    used = local(batch_size=16, steps=7)
    run(used, version=0)
    run(used, version=1)
    fresh = run(local(batch_size=16, steps=7), version=2)
    again = run(used, version=2)

    assert all(np.array_equal(fresh.arrays[name], again.arrays[name]) for name in fresh.arrays)


def test_two_rounds_from_the_positions_see_every_row_of_the_epoch_once():
    trainer = local(batch_size=10, steps=5)
    first = run(trainer)
    second = run(trainer, version=1, position=first.positions["a"])

    assert first.rows == second.rows == {"private": 50}
    assert first.positions["a"]["source"] == {"epoch": 0, "cursor": 50}
    assert second.positions["a"]["source"] in ({"epoch": 0, "cursor": 100}, {"epoch": 1, "cursor": 0})


@pytest.mark.parametrize(
    ("budget", "rows"),
    [({"steps": 3}, 44), ({"samples": 40, "steps": math.inf}, 40), ({"epochs": 2, "steps": math.inf}, 200)],
)
def test_each_budget_ends_the_round(budget, rows):
    # 100 rows at 16 make seven balanced batches: 15, 15, 14, ...
    update = run(local(batch_size=16, **budget))

    assert update.rows == {"private": rows}
    assert update.weight == rows


def test_a_budget_in_seconds_ends_a_round_that_has_no_other():
    update = run(local(batch_size=16, steps=math.inf, seconds=0.2))

    assert update.weight > 0


def test_a_silent_stream_ends_the_round_with_what_was_learnt():
    update = run(local(source=Silent(rows=40), batch_size=16, steps=10))

    assert update.rows == {"stream": 40}


def test_a_client_with_nothing_new_sends_weight_zero_and_the_model_it_got():
    update = run(local(source=Silent(), batch_size=16, steps=10))

    assert update.weight == 0
    assert np.array_equal(update.arrays["0.weight"], initial_arrays(Digits(), 0)["0.weight"])


def test_epochs_alone_are_refused_for_an_endless_stream():
    with pytest.raises(ValueError, match="never end a round"):
        local(source=Silent(), steps=math.inf, epochs=1)


def test_a_round_without_any_budget_is_refused():
    with pytest.raises(ValueError, match="needs a finite budget"):
        Training(steps=math.inf)


def test_a_model_that_blew_up_never_leaves_the_client():
    with pytest.raises(Diverged, match=r"training\.learning_rate"):
        run(local(batch_size=16, steps=20, learning_rate=1e30))


def test_arrays_of_another_model_are_refused():
    with pytest.raises(ShapeError, match="same task"):
        local().run({"other": np.zeros(3)}, base_version=0, position={})


def test_training_leaves_the_callers_random_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(local(steps=2))

    assert torch.equal(torch.rand(3), expected)


def test_clients_learn_from_all_micro_sizes_alike():
    whole = run(local(batch_size=32, steps=5))
    parts = run(local(batch_size=32, steps=5, micro_size=7))

    assert all(np.allclose(whole.arrays[name], parts.arrays[name], atol=1e-6) for name in whole.arrays)
    assert whole.sums["units"] == parts.sums["units"]


class Quiet(Silent):
    """A stream whose log holds `records` records beyond where it stands."""

    def __init__(self, records):
        super().__init__(rows=64)
        self.records = records
        self.limits, self.acknowledged = [], []

    def lag(self):
        return {"rows": self.records}

    def limit_waiting(self, seconds, *, silence_seconds=math.inf):
        self.limits.append((seconds, silence_seconds))

    def acknowledge(self, ledger, note):
        self.acknowledged.append((ledger, note))


def skipping(stream, terms):
    trainer = LocalUpdate(Digits(), stream, Training.plain(steps=1), client="a", seed=0, stream=stream)
    return trainer.run(initial_arrays(Digits(), 0), base_version=4, position={"source": {"at": 7}}, terms=terms)


def test_a_stream_with_nothing_new_is_answered_for_at_once_and_stays_where_it_stands():
    arrays = initial_arrays(Digits(), 0)
    update = skipping(Quiet(records=0), RoundTerms(skips_silent=True))

    assert (update.weight, update.rows, update.spans, update.base_version) == (0, {}, {}, 4)
    assert update.positions == {"a": {"source": {"at": 7}}}
    assert all(np.array_equal(update.arrays[name], arrays[name]) for name in arrays)


def test_a_client_that_rests_does_not_look_at_its_stream():
    assert skipping(Quiet(records=9), RoundTerms(resting=("b", "a"))).weight == 0
    assert skipping(Quiet(records=9), RoundTerms(skips_silent=True, resting=("b",))).weight > 0


def test_only_where_it_is_asked_for_a_silent_stream_is_skipped():
    assert skipping(Quiet(records=0), RoundTerms()).weight > 0
    assert run(local(steps=1)).weight > 0


def test_a_stream_hears_how_long_the_round_may_wait_for_it():
    stream = Quiet(records=1)
    skipping(stream, RoundTerms(seconds=9, silence_seconds=2))

    assert stream.limits == [(9, 2)]


def test_lag_monitors_hear_what_the_stored_model_has_learnt():
    stream = Quiet(records=1)
    trainer = LocalUpdate(Digits(), stream, Training.plain(steps=1), client="a", seed=0, stream=stream)
    position = {"source": {"at": 0, "fresh": {"ledger": {"log/rows[0]": [7, 2]}}}}
    trainer.run(initial_arrays(Digits(), 0), base_version=4, position=position)

    assert stream.acknowledged == [(Ledger({StreamPartition("log", "rows", 0): Position(7, 2)}), "fedmb version 4")]
