"""Steps ahead of the global model: what they change, and what they never do."""

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ledger import Ledger
from fedmb.tasks.digits import Digits
from fedmb.training.device import computing
from fedmb.training.evaluate import evaluate
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays, load_arrays
from fedmb.training.recipe import Training
from fedmb.training.round_terms import RoundTerms
from fedmb.training.underway import rebase
from fedmb.update import merged

STEPS = 8


@pytest.fixture(autouse=True)
def _one_thread():
    with computing(threads=1, repeatable=True):
        yield


def client(name="a", share=slice(0, 192), source=None, **training):
    rows = {column: array[share] for column, array in Digits().train_rows().items()}
    recipe = Training.plain(**{"batch_size": 16, "steps": STEPS, "learning_rate": 0.2, "momentum": 0.5, **training})
    made = source or TableSource(rows, seed=0, client=name)
    return LocalUpdate(Digits(), made, recipe, client=name, seed=0, stream=source)


def ahead(trainer):
    while trainer.step_ahead():
        continue


def rounds(trainers, count, *, between=ahead):
    """FedAvg of clients of equal weight; answers the global model and every update."""
    model, positions, updates = initial_arrays(Digits(), 0), {}, []
    for version in range(count):
        here = [one.run(model, base_version=version, position=positions.get(one.client, {})) for one in trainers]
        for one in trainers:
            between(one)
        model = here[0].arrays
        for number, update in enumerate(here[1:], start=1):
            model = merged(model, number, update.arrays, 1)
        positions |= {name: place for update in here for name, place in update.positions.items()}
        updates.append(here)
    return model, updates


def equal(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def both(**training):
    return [client("a", slice(0, 192), **training), client("b", slice(192, 384), **training)]


def test_overlap_0_is_fedavg_bit_for_bit():
    plain, _ = rounds(both(), 4, between=lambda _: None)
    kept, _ = rounds(both(overlap_steps=0), 4)

    assert equal(plain, kept)


def test_one_client_runs_ahead_of_its_own_model_so_nothing_changes():
    plain, _ = rounds([client()], 4)
    overlapped, _ = rounds([client(overlap_steps=5)], 4)

    assert equal(plain, overlapped)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_round_has_as_many_steps_and_rows_whatever_was_taken_ahead(steps):
    _, updates = rounds(both(overlap_steps=steps), 3)

    assert {update.rows["private"] for here in updates for update in here} == {STEPS * 16}
    assert {update.sums["steps"] for here in updates for update in here} == {STEPS}


def test_when_the_message_comes_decides_no_bit():
    def two(trainer):
        trainer.step_ahead()
        trainer.step_ahead()

    early, _ = rounds(both(overlap_steps=5), 4, between=two)
    late, _ = rounds(both(overlap_steps=5), 4)

    assert equal(early, late)


def test_progress_made_ahead_is_kept_on_top_of_the_new_model():
    one, other = both(overlap_steps=STEPS)
    model = initial_arrays(Digits(), 0)
    first = one.run(model, base_version=0, position={})
    ahead(one)
    stepped = {name: tensor.numpy().copy() for name, tensor in one.model.state_dict().items()}
    mean = merged(first.arrays, 1, other.run(model, base_version=0, position={}).arrays, 1)

    second = one.run(mean, base_version=1, position=first.positions["a"])

    for name, value in stepped.items():
        np.testing.assert_allclose(second.arrays[name], mean[name] + value - first.arrays[name], atol=1e-6)


def test_steps_ahead_of_an_update_that_was_not_accepted_are_dropped_and_their_rows_learnt_from_the_start():
    dropped, fresh = client(overlap_steps=5), client(overlap_steps=5)
    model = initial_arrays(Digits(), 0)
    first = dropped.run(model, base_version=0, position={})
    ahead(dropped)

    again = dropped.run(model, base_version=0, position={})

    assert dropped.steps_ahead == 0
    assert equal(again.arrays, fresh.run(model, base_version=0, position={}).arrays)
    assert again.positions == first.positions


def test_a_client_that_is_left_out_gives_its_steps_up():
    trainer = client(overlap_steps=5)
    first = trainer.run(initial_arrays(Digits(), 0), base_version=0, position={})
    ahead(trainer)

    silent = trainer.run(first.arrays, base_version=1, position=first.positions["a"], terms=RoundTerms(resting=("a",)))

    assert silent.weight == 0
    assert silent.positions == first.positions
    assert not trainer.step_ahead()


def test_spans_meet_with_every_row_of_a_stream_learnt_once():
    log = MemoryLog()
    codec = PackedCodec(Digits.schema)
    writer = log.writer("rows", 0)
    rows = Digits().train_rows()
    for at in range(0, 1200, 6):
        writer.append(codec.encode({name: array[at : at + 6] for name, array in rows.items()}))
    stream = LogSource(log.reader("rows", (0,)), [codec], patience_seconds=0.01)
    trainer = client(source=stream, overlap_steps=3)
    model, position, ledger, seen = initial_arrays(Digits(), 0), {}, Ledger(), 0

    for version in range(9):
        update = trainer.run(model, base_version=version, position=position, ledger=ledger)
        ahead(trainer)
        if version in {2, 5}:
            continue  # the server lost it
        ledger = ledger.advanced(update.spans)
        model, position, seen = update.arrays, update.positions["a"], seen + update.rows["stream"]

    ((_, here),) = ledger.items()
    assert here.offset * 6 + here.row == seen == 7 * STEPS * 16


def test_it_learns_digits_as_well_as_without():
    rows = Digits().test_rows()
    scores = []
    for overlap in (0, STEPS // 2):
        arrays, updates = rounds(both(overlap_steps=overlap, learning_rate=0.3), 40)
        model = Digits().build_model()
        load_arrays(model, arrays)
        scores.append(
            (evaluate(Digits(), model, rows)["accuracy"], sum(one.weight for here in updates for one in here))
        )

    (plain, same), (overlapped, rows_learnt) = scores
    assert same == rows_learnt
    assert overlapped > plain - 0.01, scores


def test_statistics_of_batch_norm_stay_between_what_they_were_and_what_comes():
    model = nn.BatchNorm1d(2)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.running_var.copy_(torch.tensor([0.1, 0.5]))
        model.num_batches_tracked += 3
    after = {**before, "running_var": np.array([0.2, 1.0], np.float32), "num_batches_tracked": np.array(40)}

    rebase(model, before=before, after=after)

    assert model.running_var.tolist() == pytest.approx([0.1, 0.5])
    assert model.num_batches_tracked == 43


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"overlap_steps": 9}, "overlap_steps 9 and steps 8"),
        ({"overlap_steps": 2, "proximal": 0.1}, "beside proximal"),
        ({"overlap_steps": 2, "average": 0.9}, "beside average"),
    ],
)
def test_what_steps_ahead_do_not_bear_is_refused(training, said):
    with pytest.raises((SettingsError, ValueError), match=said):
        client(**training)
