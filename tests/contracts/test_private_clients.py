"""Federations of private clients: they learn, they count, they stop, and the server is told why."""

import json

import numpy as np
import pytest
from short_runs import NORMED, chosen_settings, finished, run_in

from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.errors import SettingsError
from fedmb.settings import load
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory

SEEDED = "privacy.randomness=seeded aggregation.weights=equal"
TABLES = "streamed.clients=0 private.alpha=100"
UPDATE = f"{SEEDED} {TABLES} private.clients=4 privacy.clip_norm=1 privacy.noise_multiplier=0.02"
EXAMPLE = f"{SEEDED} privacy.unit=example privacy.clip_norm=1 training.sizing.size=64"
CHANCE = f"{EXAMPLE} {TABLES} private.clients=2 rows.sampling=poisson training.learning_rate.rate=0.5"
ALL = "[0,1,2,3,4,5,6,7,8,9]"
STREAMS = f"""{EXAMPLE} private.clients=0 streamed.clients=2 replay.share=0 training.learning_rate.rate=2
    streamed.labels_before={ALL} streamed.labels_after={ALL}"""


def account(path, client):
    return json.loads((path / "state" / client / "privacy.json").read_text())


@pytest.mark.parametrize(
    ("chosen", "client", "releases", "accuracy"),
    [
        (f"{UPDATE} rounds.count=5 training.steps=30 wire.compression=int8", "private-0", (0.01, 1.0, 5), 0.8),
        (
            f"{CHANCE} rounds.count=4 training.steps=20",
            "private-0",
            None,
            0.75,
        ),
        (f"{STREAMS} rounds.count=4 training.steps=20", "stream-0", (1.0, 1.0, 1), 0.8),
    ],
    ids=["update, compressed", "examples of a table", "examples of a stream"],
)
def test_private_clients_learn_the_digits_and_count(tmp_path, chosen, client, releases, accuracy):
    _, entries = finished(tmp_path / "run", chosen_settings(chosen))

    told = account(tmp_path / "run", client)
    if releases is None:
        ((noise, rate, count),) = told["whole"]
        assert (noise, count) == (1.0, 4 * 20)
        assert 64 / 800 < rate < 64 / 600
        releases = (noise, rate, count)
    assert told["epsilon"] == epsilon_of((releases,), 1e-5)
    assert entries[-1]["monitor"]["client_epsilon"] >= told["epsilon"]
    assert entries[-1]["scores"]["accuracy"] > accuracy
    assert entries[-1]["rows"].keys() == {"stream" if client == "stream-0" else "private"}
    assert entries[-1]["train_loss"] is None


def test_a_client_whose_budget_is_spent_is_named_and_the_others_go_on(tmp_path):
    budget = epsilon_of(((0.5, 1.0, 2),), 1e-5) + 1e-9
    chosen = f"{TABLES} {SEEDED} private.clients=2 privacy.clip_norm=1 privacy.epsilon={budget} rounds.count=2"
    path = tmp_path / "run"
    _, entries = finished(path, chosen_settings(chosen))
    spent = account(path, "private-0")["epsilon"]
    # One of them has been in another run before: its account is not this run's.
    again = tmp_path / "again"
    (again / "state" / "private-1").mkdir(parents=True)
    (again / "state" / "private-1" / "privacy.json").write_bytes(
        (path / "state" / "private-1" / "privacy.json").read_bytes()
    )
    _, told = finished(again, chosen_settings(chosen))

    assert [len(entry["rejected"]) for entry in entries] == [0, 0]
    assert spent == pytest.approx(budget)
    for entry in told:
        (reason,) = entry["rejected"].values()
        assert reason.startswith("client private-1: privacy budget: this round would make epsilon")
    assert [entry["clients"] for entry in told] == [1, 1]


def test_a_simulation_that_is_resumed_goes_on_counting(tmp_path):
    chosen = f"{TABLES} {SEEDED} private.clients=1 privacy.clip_norm=1 privacy.unit=example rounds.count=1"
    finished(tmp_path / "run", chosen_settings(chosen))
    once = account(tmp_path / "run", "private-0")
    run = RunDirectory.existing(tmp_path / "run")
    simulate(load(Simulation, file=run.config, explicit={"rounds.count": 6}), run)
    run.close()
    passes = account(tmp_path / "run", "private-0")

    assert once["epsilon"] == epsilon_of(((1.0, 1.0, 1),), 1e-5)
    # Six rounds of eight batches of 32 rows: 1,437 rows are not all given.
    assert passes["epsilon"] == epsilon_of(((1.0, 1.0, 2),), 1e-5)


def test_what_compression_leaves_behind_is_of_noised_changes(tmp_path):
    wanted = chosen_settings(f"{UPDATE} rounds.count=3 wire.compression=top wire.top_share=0.05")
    state, _ = finished(tmp_path / "run", wanted)

    assert all(np.isfinite(array).all() for array in state.arrays.values())
    assert account(tmp_path / "run", "private-3")["whole"] == [[0.01, 1.0, 3]]


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (f"{NORMED} privacy.clip_norm=1", r"no running statistics that travel, got .*; set training.norm to group"),
        (
            f"{NORMED} privacy.clip_norm=1 privacy.unit=example training.norm_travels=fedbn",
            "must not depend on rows beside it, got BatchNorm1d",
        ),
    ],
)
def test_models_that_tell_of_rows_are_refused_before_a_round(tmp_path, chosen, sentence):
    with pytest.raises(SettingsError, match=sentence):
        run_in(tmp_path / "run", chosen_settings(chosen))


def test_replay_beside_examples_is_refused():
    with pytest.raises(SettingsError, match=r"counts every row once, got replay.share 0.5 of streamed clients; set"):
        load(Simulation, overrides=["privacy.clip_norm=1", "privacy.unit=example"])
