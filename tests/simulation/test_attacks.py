"""Bad clients among good ones, through real rounds of real training."""

from functools import cache

import numpy as np
import pytest

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum
from fedmb.batch.sharding import dirichlet_shares
from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.server import scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.attacks import ATTACKS, Seen, flipped, with_bad_clients
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

CLIENTS, BAD, ROUNDS, STEPS = 10, 2, 6, 8
RULES = {"trimmed_mean": TrimmedMean(BAD), "median": Median(), "geometric_median": GeometricMedian()}
BEFORE = {"w": np.float32([1, 2, 3]), "n": np.array(4)}
OWN = {"w": np.float32([2, 2, 1]), "n": np.array(5)}


def trainers(attack):
    rows, found = Digits().train_rows(), {}
    shares = dirichlet_shares(rows["label"], CLIENTS, 1e6, np.random.default_rng(0))
    for number, index in enumerate(shares):
        part = {column: array[index] for column, array in rows.items()}
        if attack == "label flip" and number >= CLIENTS - BAD:
            part["label"] = flipped(part["label"], 10)
        source = TableSource(part, seed=0, client=f"c{number}")
        training = Training.plain(batch_size=32, steps=STEPS, learning_rate=0.2)
        found[f"c{number}"] = LocalUpdate(Digits(), source, training, client=f"c{number}", seed=0)
    return found


def accuracy(rule, attack):
    clients = trainers(attack)
    clients = with_bad_clients(clients, list(clients)[-BAD:], ATTACKS.get(attack), seed=0)
    app = client_app(lambda context: clients[context.node_config["client"]])
    grid = InProcessGrid(app, {2 + k: {"client": name} for k, name in enumerate(clients)})
    loop = RoundLoop(grid, MiniBatchFedAvg(rule), Rounds(count=ROUNDS), on_round=lambda *_: None)
    return scorer(Digits(), {"": Digits().test_rows()})(loop.run(ServerState(0, initial_arrays(Digits(), 0))))[
        "accuracy"
    ]


@cache
def clean():
    return accuracy(None, "clean")


@pytest.mark.parametrize("attack", [*ATTACKS, "label flip"])
def test_multi_krum_behind_the_guard_stays_near_what_nobody_attacked(attack):
    assert accuracy(MultiKrum(BAD), attack) > clean() - 0.03


def test_the_mean_does_not_survive_a_flipped_sign():
    assert accuracy(None, "sign flip") < clean() - 0.2


@pytest.mark.parametrize("name", RULES)
def test_robust_rules_survive_a_flipped_sign(name):
    assert accuracy(RULES[name], "sign flip") > clean() - 0.1


def seen(honest=()):
    return Seen(OWN, BEFORE, honest, np.random.default_rng(0))


def test_attacks_say_what_they_are_called_after():
    honest = [{"w": np.float32([k, k, k])} for k in (1, 2, 3)]

    assert np.isnan(ATTACKS["nan"](seen())["w"]).all()
    assert ATTACKS["sign flip"](seen())["w"].tolist() == [-4, 2, 13]
    assert np.abs(ATTACKS["noise"](seen())["w"] - OWN["w"]).max() > 10
    assert np.allclose(ATTACKS["alie"](seen(honest))["w"], 2 - 1.5 * np.std([1, 2, 3]))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_sent_has_the_form_of_an_update(name):
    sent = ATTACKS[name](seen([OWN]))

    assert [(part, array.dtype, array.shape) for part, array in sent.items()] == [
        (part, array.dtype, array.shape) for part, array in OWN.items()
    ]
    assert sent["n"] == 5


def test_who_needs_to_know_the_others_must_come_last():
    with pytest.raises(NotEnoughData, match="let bad clients come last"):
        ATTACKS["alie"](seen())


def test_labels_are_turned_round():
    assert flipped(np.array([0, 3, 9], np.uint8), 10).tolist() == [9, 6, 0]
