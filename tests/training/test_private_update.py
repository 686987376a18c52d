"""What leaves a private client, how often it counts, and what is refused beside it."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from private_clients import BEFORE, STREAM, Records, chance, change, local, run, table, times
from small_regression import Curve

from fedmb.errors import PrivacyExhausted
from fedmb.ledger import Position, Span
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.private_update import noised_change
from fedmb.training.recipe import Training
from fedmb.training.release_account import FILE
from fedmb.training.round_terms import RoundTerms


@pytest.mark.parametrize("unit", ["update", "example"])
def test_nothing_leaves_but_noised_parameters_positions_and_numbers_that_follow_from_settings(tmp_path, unit):
    update = run(local(tmp_path, unit=unit))

    assert update.sums.keys() == {"units", "steps", "rate", "reach", "epsilon"}
    assert (update.weight, update.sums["units"], update.sums["steps"]) == (30.0, 30.0, 3.0)
    assert update.rows == {"private": 30}
    assert update.positions == {
        "ward": {
            "source": {"epoch": 0, "cursor": 30},
            "trainer": {"samples": 30, "steps": 3, "size": 10, "asked_at": 0, "probe": None},
        }
    }


def test_a_stream_tells_its_positions_and_no_scores(tmp_path):
    update = run(local(tmp_path, Records(), unit="example"))

    assert update.spans == {STREAM: Span(Position(0), Position(30))}
    assert update.sums.keys() == {"units", "steps", "rate", "reach", "epsilon"}
    assert "watch" not in update.positions["ward"]["trainer"]


class Counting(Curve):
    """A model with a layer that is not trained, and a buffer that counts what it has seen."""

    def build_model(self):
        model = super().build_model()
        model[0].requires_grad_(requires_grad=False)
        model.register_buffer("seen", torch.tensor(5))
        return model

    def forward(self, model, rows):
        model.seen += len(rows["y"])
        return super().forward(model, rows)


@pytest.mark.parametrize("unit", ["update", "example"])
def test_whole_numbers_and_what_is_not_trained_go_back_as_they_came(tmp_path, unit):
    before = initial_arrays(Counting(), 0)
    privacy = ClientPrivacy(clip_norm=1, unit=unit)
    training = Training.plain(batch_size=10, steps=3)
    trainer = LocalUpdate(Counting(), table(), training, client="ward", seed=0, directory=tmp_path, privacy=privacy)
    update = trainer.run(before, base_version=0, position={})

    assert trainer.model.seen > 5
    changed = {name for name in before if not np.array_equal(update.arrays[name], before[name])}
    assert changed == {"2.weight", "2.bias"}


def test_a_rounds_noise_has_the_deviation_that_it_says():
    before, rng = {"w": np.zeros((50, 80)), "b": np.zeros(1000)}, np.random.default_rng(1)
    after = {name: rng.standard_normal(array.shape) for name, array in before.items()}

    noised = noised_change(after, before, clip_norm=0.5, noise_multiplier=3.0, normals=rng.standard_normal)

    drawn = np.concatenate([noised[name].ravel() for name in noised]) / 1.5
    assert abs(np.square(drawn).sum() - 5000) < 4.5 * math.sqrt(2 * 5000)


@pytest.mark.parametrize("far", [0.0, 0.1, 1e6, 1e300, math.inf, math.nan])
def test_a_change_whatever_it_is_moves_what_leaves_by_the_clip_at_most(far):
    before = {"w": np.ones(100, np.float32)}

    after = {"w": before["w"].astype(np.float64) + far / 10}
    noised = noised_change(after, before, clip_norm=0.5, noise_multiplier=1.0, normals=np.zeros)

    wanted = min(far, 0.5) if math.isfinite(far) and far < 1e200 else 0.0
    assert np.linalg.norm(noised["w"] - before["w"]) == pytest.approx(wanted, rel=1e-5)


def test_what_leaves_is_the_clipped_change_and_fresh_noise(tmp_path):
    plain = LocalUpdate(Curve(), table(), Training.plain(batch_size=10, steps=3), client="ward", seed=0)
    changed = change(plain.run(BEFORE, base_version=0, position={}))
    quiet = local(tmp_path / "a", clip_norm=1e-3, noise_multiplier=1e-6)
    twice = [change(run(local(tmp_path / name, randomness="unpredictable"))) for name in "bc"]

    assert change(run(quiet)) == pytest.approx(changed * 1e-3 / np.linalg.norm(changed), abs=1e-7)
    assert not np.array_equal(*twice)
    # Two clients of one seed do not share their noise, nor two rounds.
    seeded = [run(local(tmp_path / "d", client="bed")), run(local(tmp_path / "e")), run(local(tmp_path / "e"), 1)]
    assert len({str(change(one)) for one in seeded}) == 3
    assert np.array_equal(change(run(local(tmp_path / "e"))), change(seeded[1]))


def test_a_model_that_broke_is_sent_as_noise_and_says_nothing(tmp_path, caplog):
    update = run(local(tmp_path, training={"learning_rate": 1e30}))

    assert np.isfinite(change(update)).all()
    assert update.weight == 30
    assert "change not finite" in caplog.text


@pytest.mark.parametrize(
    ("told", "source", "epsilons"),
    [
        # Two changes lie twice the clip apart.
        ({"unit": "update"}, table, [times(1, 0.5), times(2, 0.5), times(3, 0.5)]),
        # 30 of 60 rows a round.
        ({"unit": "example"}, table, [times(1), times(1), times(2)]),
        ({"unit": "example"}, chance, [times(3, rate=1 / 6), times(6, rate=1 / 6), times(9, rate=1 / 6)]),
        ({"unit": "example"}, Records, [times(1), times(1), times(1)]),
    ],
    ids=["update", "shuffled table", "table by chance", "stream"],
)
def test_epsilon_counts_what_a_row_took_part_in(tmp_path, told, source, epsilons):
    trainer, position, found = local(tmp_path, source(), **told), {}, []
    for version in range(3):
        update = run(trainer, version, position)
        position = update.positions["ward"]
        found.append(update.sums["epsilon"])

    assert found == epsilons


@pytest.mark.parametrize(
    ("told", "source", "count"),
    [
        ({"unit": "update"}, table, times(2, 0.5)),
        ({"unit": "example"}, table, times(2)),
        ({"unit": "example"}, Records, times(2)),
    ],
)
def test_a_round_that_was_killed_between_counting_and_sending_counts_again(tmp_path, told, source, count):
    run(local(tmp_path, source(), **told))  # and nobody ever sees the update

    redone = run(local(tmp_path, source(), **told))

    assert redone.sums["epsilon"] == count


def test_a_process_killed_before_it_answers_has_counted_what_nobody_saw(tmp_path):
    script = """
import os, pathlib, signal, sys
from private_clients import local, run
from fedmb.training import private_update
private_update.noised_change = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
run(local(pathlib.Path(sys.argv[1])))
"""
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[1] / "contracts")])
    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((tmp_path / FILE).read_text())["epsilon"] == times(1, 0.5)
    assert run(local(tmp_path)).sums["epsilon"] == times(2, 0.5)


def test_a_server_that_goes_back_to_an_older_model_makes_rows_count_again(tmp_path):
    trainer = local(tmp_path, Records(), unit="example")
    first = run(trainer)
    run(trainer, 1, first.positions["ward"])
    again = run(trainer, 1, first.positions["ward"])
    back = run(trainer, 0)

    assert again.sums["epsilon"] == back.sums["epsilon"] == times(2)


def test_how_many_rows_chance_drew_is_not_told(tmp_path):
    told = [run(local(tmp_path, chance(), unit="example", randomness="unpredictable"), number) for number in range(4)]

    assert {
        (update.weight, update.rows["private"], update.positions["ward"]["trainer"]["samples"]) for update in told
    } == {(30.0, 30, 30)}


def test_nothing_leaves_that_could_not_be_counted(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("fedmb.training.release_account.write_atomically", full)
    with pytest.raises(OSError, match="no space"):
        run(local(tmp_path))


def test_rows_drawn_by_chance_are_others_when_a_round_is_redone(tmp_path):
    source, drawn = chance(), []
    trainer = local(tmp_path, source, unit="example", randomness="unpredictable")
    take = source.take
    source.take = lambda size: drawn.append(take(size)) or drawn[-1]

    run(trainer)
    run(trainer)

    assert [batch.columns["y"].tolist() for batch in drawn[:3]] != [batch.columns["y"].tolist() for batch in drawn[3:]]


@pytest.mark.parametrize(
    ("told", "source", "budget", "rounds"),
    [
        ({"unit": "update"}, table, times(2, 0.5), 2),
        ({"unit": "example"}, table, times(2), 4),
        ({"unit": "example"}, chance, times(7, rate=1 / 6), 2),
    ],
)
def test_a_client_takes_no_part_in_the_round_that_would_pass_its_budget(tmp_path, told, source, budget, rounds):
    position = {}
    for version in range(rounds):
        trainer = local(tmp_path, source(), epsilon=budget + 1e-9, **told)  # a new process each time
        position = run(trainer, version, position).positions["ward"]

    with pytest.raises(PrivacyExhausted, match="take the client out of the run"):
        run(local(tmp_path, source(), epsilon=budget + 1e-9, **told), rounds, position)


def test_a_stream_that_is_learnt_once_never_spends_its_budget_and_a_round_redone_does(tmp_path):
    trainer, position = local(tmp_path, Records(), unit="example", epsilon=times(1) + 1e-9), {}
    for version in range(6):
        before, position = position, run(trainer, version, position).positions["ward"]

    with pytest.raises(PrivacyExhausted, match="would make epsilon"):
        run(trainer, 5, before)
    assert run(trainer, 6, position).sums["epsilon"] == times(1)


def test_a_client_that_is_left_out_or_hears_nothing_releases_nothing(tmp_path):
    trainer = local(tmp_path, Records(rows=20), unit="example")
    run(trainer)
    place = {"source": {"ledger": {str(STREAM): [20, 0]}}}
    silent = run(trainer, 1, place)
    resting = trainer.run(BEFORE, base_version=2, position={}, terms=RoundTerms(resting=("ward",)))

    assert (silent.weight, resting.weight) == (0, 0)
    assert all(np.array_equal(silent.arrays[name], BEFORE[name]) for name in BEFORE)
    assert trainer._private.account.epsilon == times(1)


def test_poisson_sampling_protects_nobody_who_knows_the_seed_and_the_log_says_so(tmp_path, caplog):
    local(tmp_path, chance(), unit="example")

    assert "which the server knows client=ward randomness=seeded" in caplog.text


def test_schedules_momentum_averages_and_guards_act_on_noised_gradients(tmp_path):
    training = {
        "momentum": 0.9,
        "average": 0.5,
        "proximal": 0.1,
        "guard": {"clip_norm": 0.1, "skip_non_finite": True, "spike_factor": 9.0},
        "micro_size": 4,
    }
    whole = run(local(tmp_path / "a", unit="example", training={**training, "micro_size": None}))
    cut = run(local(tmp_path / "b", unit="example", training=training))

    assert change(cut) == pytest.approx(change(whole), abs=1e-6)
    assert 0 < np.linalg.norm(change(cut)) <= 0.03  # three steps of 0.1 * 0.1, and what momentum adds


def test_the_account_lies_in_the_clients_directory_as_json(tmp_path):
    run(local(tmp_path, unit="update"))

    found = json.loads((tmp_path / FILE).read_text())
    assert (found["client"], found["whole"], found["epsilon"]) == ("ward", [[0.5, 1.0, 1]], times(1, 0.5))
