import logging

import numpy as np
import pytest
import torch
from small_regression import Curve, columns

from fedmb.aggregation.control_variates import LOST, Variate
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training


def local(directory=None, **training):
    wanted = Training.plain(batch_size=20, learning_rate=0.05, steps=3, control_variates=True, **training)
    return LocalUpdate(
        Curve(), TableSource(columns(), seed=0, client="a"), wanted, client="a", seed=0, directory=directory
    )


def variate(seed=None, generation=0):
    if seed is None:
        return Variate({}, generation)
    random = np.random.default_rng(seed)
    mean = {name: random.standard_normal(a.shape).astype(np.float32) for name, a in initial_arrays(Curve(), 0).items()}
    return Variate(mean, generation)


def run(trainer, version=0, position=None, control=None, arrays=None):
    return trainer.run(
        arrays or initial_arrays(Curve(), 0),
        base_version=version,
        position=position or {},
        control=control or variate(),
    )


def test_the_first_round_is_a_plain_one():
    plain = LocalUpdate(
        Curve(),
        TableSource(columns(), seed=0, client="a"),
        Training.plain(batch_size=20, learning_rate=0.05, steps=3),
        client="a",
        seed=0,
    )
    one, other = plain.run(initial_arrays(Curve(), 0), base_version=0, position={}), run(local())

    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_the_own_variate_is_the_mean_gradient_of_the_round(tmp_path):
    trainer, before = local(tmp_path), initial_arrays(Curve(), 0)
    update = run(trainer, control=variate(3))
    kept = trainer._control._kept.load(1)

    for name, own in kept.items():
        gradient = (before[name] - update.arrays[name]) / (3 * 0.05) - variate(3).mean[name]
        assert np.allclose(own, gradient, atol=1e-5)
    assert update.positions["a"]["control"] == [0, 1]


def test_every_gradient_is_corrected_by_the_mean_less_the_own():
    trainer = local()
    first = run(trainer)
    own = trainer._control._kept.load(1)
    second = run(trainer, 1, first.positions["a"], Variate(own, 0), first.arrays)  # its own is everyone's
    plain = run(local(), 1, {**first.positions["a"], "control": None}, arrays=first.arrays)

    assert all(np.allclose(second.arrays[name], plain.arrays[name], atol=1e-6) for name in plain.arrays)
    third = run(trainer, 1, first.positions["a"], variate(), first.arrays)
    assert not all(np.allclose(third.arrays[name], variate(5).mean[name], atol=1e-6) for name in plain.arrays)


@pytest.mark.parametrize("told", [{"micro_size": 7}, {"micro_size": 3}, {"micro_size": 7, "proximal": 0.5}])
def test_the_cut_of_a_batch_does_not_show(told):
    whole = {key: value for key, value in told.items() if key != "micro_size"}
    one, other = local(**whole), local(**told)
    updates = [run(trainer, control=variate(3)) for trainer in (one, other)]

    assert all(np.allclose(updates[0].arrays[n], updates[1].arrays[n], atol=1e-6) for n in updates[0].arrays)
    kept = [trainer._control._kept.load(1) for trainer in (one, other)]
    assert all(np.allclose(kept[0][name], kept[1][name], atol=1e-4) for name in kept[0])


def test_what_is_kept_survives_the_process(tmp_path):
    first = run(local(tmp_path))
    fresh = run(local(tmp_path), 1, first.positions["a"], variate(3), first.arrays)
    trainer = local()
    run(trainer)
    same = run(trainer, 1, first.positions["a"], variate(3), first.arrays)

    assert all(fresh.arrays[name].tobytes() == same.arrays[name].tobytes() for name in same.arrays)


def test_the_variate_in_force_stays_however_many_rounds_are_dropped(tmp_path):
    first = run(local(tmp_path))
    for version in range(1, 9):
        run(local(tmp_path), version, first.positions["a"], variate(3), first.arrays)

    assert local(tmp_path)._control._kept.versions() == [1, 7, 8, 9]


def test_a_lost_variate_is_told_and_begins_at_zero(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        update = run(local(tmp_path), 4, {"control": [0, 4]}, variate(3))

    assert update.sums[LOST] == 1
    assert "control variate lost version=4" in caplog.text


def test_another_generation_begins_at_zero_and_loses_nothing(tmp_path):
    first = run(local(tmp_path))
    update = run(local(tmp_path), 1, first.positions["a"], variate(generation=1), first.arrays)

    assert LOST not in update.sums
    assert update.positions["a"]["control"] == [1, 2]


def test_weights_that_are_frozen_stay():
    trainer = local()
    trainer.model[0].weight.requires_grad_(requires_grad=False)
    update = run(trainer, control=variate(3))

    assert np.array_equal(update.arrays["0.weight"], initial_arrays(Curve(), 0)["0.weight"])
    assert not np.array_equal(update.arrays["2.weight"], initial_arrays(Curve(), 0)["2.weight"])


def test_a_server_without_control_variates_is_named():
    with pytest.raises(SettingsError, match="got a strategy that sends none; take fedmb's own"):
        local().run(initial_arrays(Curve(), 0), base_version=0, position={})


def test_steps_ahead_are_refused_beside_it():
    with pytest.raises(ValueError, match="beside control_variates, which need the round's model"):
        Training.plain(steps=4, overlap_steps=2, control_variates=True)


def test_an_optimiser_that_is_not_linear_is_refused():
    with pytest.raises(ValueError, match=r"training.control_variates must know how far .* got optimizer adam"):
        Training.plain(optimizer="adam", control_variates=True)


def test_a_correction_lies_where_the_model_does():
    trainer = local()
    edit = trainer._control.round(variate(3), {}).edit(trainer.model)

    assert [one.shape for one in edit.state_dict()["correction"]] == [one.shape for one in trainer.model.parameters()]
    assert all(one.dtype == torch.float32 for one in edit.state_dict()["correction"])
