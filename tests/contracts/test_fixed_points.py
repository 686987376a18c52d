"""Where algorithms settle when clients want different things and take different numbers of steps."""

import logging

import numpy as np
import pytest
from quadratic_clients import STEPS, Federation, contraction, limit

from fedmb.aggregation.rule_choice import Aggregation
from fedmb.aggregation.server_optimizer_section import ServerOptimization
from fedmb.training.kept_arrays import KeptArrays

RIGHT = 0.5
EQUAL = Aggregation(weights="equal")
FEDNOVA = Aggregation(rule="fednova", weights="equal")
SCAFFOLD = {"control_variates": True}


def pulled(shares):
    """The mean of 0 and 1 by so many shares of each."""
    return shares[1] / sum(shares)


def own_variates(federation):
    """Each client's, of the version that its position names."""
    found = {}
    for client, position in federation.state.positions.items():
        kept = KeptArrays("control", federation.path / client)
        found[client] = float(kept.load(position["control"][1])["at"])
    return found


def test_the_mean_settles_where_the_client_of_more_steps_wants_it(tmp_path):
    found = limit(Federation(tmp_path, EQUAL))

    assert found == pytest.approx(pulled([contraction(0.1, steps) for steps in STEPS]), abs=1e-9)
    assert found == pytest.approx(0.804, abs=5e-4)


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.450), (0.01, 0.495)])
def test_fednova_is_unbiased_up_to_the_local_rate(tmp_path, rate, expected):
    found = limit(Federation(tmp_path, FEDNOVA, rate=rate))

    shares = [contraction(rate, steps) / (rate * steps) for steps in STEPS]
    assert found == pytest.approx(pulled(shares), abs=1e-6)
    assert found == pytest.approx(expected, abs=5e-4)


def test_fednova_knows_the_reach_of_momentum(tmp_path):
    mean = limit(Federation(tmp_path / "mean", EQUAL, rate=0.01, momentum=0.8))
    nova = limit(Federation(tmp_path / "nova", FEDNOVA, rate=0.01, momentum=0.8))

    assert abs(mean - RIGHT) > 0.35
    assert abs(nova - RIGHT) < 0.02


def test_fednova_knows_the_reach_of_a_proximal_pull(tmp_path):
    pull, rate = 2.0, 0.1
    found = limit(Federation(tmp_path, FEDNOVA, rate=rate, proximal=pull))

    reaches = [(1 - (1 - rate * pull) ** steps) / pull for steps in STEPS]
    shares = [contraction(rate, steps, pull=pull) / reach for steps, reach in zip(STEPS, reaches, strict=True)]
    assert found == pytest.approx(pulled(shares), abs=1e-9)


@pytest.mark.parametrize("pull", [0.5, 5.0])
def test_fedprox_settles_at_its_known_point(tmp_path, pull):
    found = limit(Federation(tmp_path, EQUAL, proximal=pull))

    assert found == pytest.approx(pulled([contraction(0.1, steps, pull=pull) for steps in STEPS]), abs=1e-9)


@pytest.mark.parametrize("told", [{}, {"momentum": 0.5}, {"proximal": 1.0}])
def test_scaffold_is_exact(tmp_path, told):
    assert Federation(tmp_path, EQUAL, **SCAFFOLD, **told).run(60) == pytest.approx(RIGHT, abs=1e-5)


def test_scaffold_is_exact_under_an_optimiser_of_the_servers(tmp_path):
    step = Aggregation(weights="equal", optimizer=ServerOptimization(name="fedavgm", momentum=0.5, rate=0.5))

    assert Federation(tmp_path, step, **SCAFFOLD).run(70) == pytest.approx(RIGHT, abs=1e-4)


def test_an_optimiser_alone_does_not_cure_drift(tmp_path):
    step = Aggregation(weights="equal", optimizer=ServerOptimization(name="fedavgm", momentum=0.5, rate=0.5))

    assert Federation(tmp_path, step).run(40) == pytest.approx(0.804, abs=5e-3)


def test_both_sides_of_scaffold_agree_whatever_was_dropped(tmp_path, monkeypatch):
    federation = Federation(tmp_path, EQUAL, **SCAFFOLD)
    broken = federation.trainers["client-1"]
    honest = broken.run
    dropped = []

    def run(arrays, **told):
        update = honest(arrays, **told)
        if told["base_version"] % 7 > 2:  # up to four in a row, more versions than a client keeps
            dropped.append(told["base_version"])
            update.arrays["at"][...] = np.nan
        return update

    monkeypatch.setattr(broken, "run", run)
    for _ in range(30):
        federation.run(1)
        own = own_variates(federation)

        mean = federation.strategy.control.mean()
        assert float(mean["at"]) == pytest.approx(np.mean(list(own.values())), abs=1e-12)
    assert len(dropped) > 12
    assert not any(report.rejected.keys() - {"client-1"} for report in federation.reports)
    monkeypatch.undo()
    assert federation.run(60) == pytest.approx(RIGHT, abs=1e-5)


def test_a_client_that_lost_its_variate_lets_everyone_begin_anew(tmp_path, caplog):
    federation = Federation(tmp_path, EQUAL, **SCAFFOLD)
    federation.run(20)
    for file in (tmp_path / "client-1").glob("control-*"):
        file.unlink()

    with caplog.at_level(logging.WARNING):
        federation.run(1)

    assert "control variates begin anew round=21 lost_by=['client-1']" in caplog.text
    assert federation.strategy.control.generation == 1
    assert not federation.strategy.control.mean()
    federation.run(1)
    assert {tuple(one["control"]) for one in federation.state.positions.values()} == {(1, 22)}
    assert federation.run(60) == pytest.approx(RIGHT, abs=1e-5)


@pytest.mark.parametrize("told", [SCAFFOLD, {"proximal": 0.3}], ids=["scaffold", "fedprox"])
def test_a_server_started_anew_every_round_ends_with_the_same_bits(tmp_path, told):
    whole, pieces = Federation(tmp_path / "a", EQUAL, **told), Federation(tmp_path / "b", EQUAL, **told)
    whole.run(8)
    for _ in range(8):
        pieces.run(1)

    assert whole.state.arrays["at"].tobytes() == pieces.state.arrays["at"].tobytes()
    assert whole.state.positions == pieces.state.positions
