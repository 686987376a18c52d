"""Private runs under our rounds: what is released, counted, told and refused."""

import math
from functools import partial

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from short_runs import NORMED, chosen_settings, finished, run_in

from fedmb.aggregation.privacy import Privacy
from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.errors import SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import reply_to
from fedmb.federation.private import Private, is_over
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.simulation.population import Simulation
from fedmb.update import Update

CLIENTS = 4
ON = "aggregation.weights=equal aggregation.privacy.clip_norm=1 aggregation.privacy.clients=4"


def learnt(client, instruction, *, far=""):
    draws = np.random.default_rng([int(client[-1]), instruction.base_version])
    step = 1e6 if client == far else 0.1
    arrays = {
        name: array + (draws.standard_normal(array.shape) * step).astype(array.dtype)
        for name, array in sorted(instruction.arrays.items())
    }
    weight = 10.0 + int(client[-1])
    return Update(arrays, weight, instruction.base_version, {client: {}}, sums={"units": weight, "loss": 3.0})


def grid_of(learn=learnt):
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["client"]
        return reply_to(message, partial(learn, client), client=client)

    return InProcessGrid(app, {10 + k: {"client": f"client-{k}"} for k in range(CLIENTS)})


def private(*, rate=1.0, seed=3, **told):
    told = {"clip_norm": 1.0, "clients": CLIENTS, "randomness": "seeded"} | told
    return MiniBatchFedAvg(private=Private(Privacy(**told), rate=rate, seed=seed), equal_weights=True)


def run(strategy, state=None, *, count=3, learn=learnt):
    reports = []
    loop = RoundLoop(
        grid_of(learn), strategy, Rounds(count=count), on_round=lambda state, report: reports.append(report)
    )
    start = ServerState(0, {"w": np.zeros((3, 4), np.float32), "seen": np.array(7)})
    return loop.run(state or start), reports


def test_epsilon_is_told_every_round_and_what_clients_measured_is_not():
    state, reports = run(private(noise_multiplier=2.0))

    assert [report.monitor["epsilon"] for report in reports] == [
        epsilon_of(((2.0, 1.0, number),), 1e-5) for number in (1, 2, 3)
    ]
    assert {*reports[0].monitor} == {"update_ratio", "epsilon", "delta", "clip_norm"}
    assert all(math.isnan(report.train_loss) and not report.rows and not report.alarms for report in reports)
    assert state.arrays["seen"] == 7


def test_a_run_stops_before_its_budget_and_stays_stopped_when_it_is_resumed(tmp_path):
    budget = epsilon_of(((2.0, 1.0, 2),), 1e-5) + 1e-6
    first, _ = run(private(noise_multiplier=2.0, epsilon=budget), count=1)
    checkpoint.save(tmp_path, first)
    second, reports = run(private(noise_multiplier=2.0, epsilon=budget), checkpoint.newest(tmp_path), count=9)
    checkpoint.save(tmp_path, second)
    third, none = run(private(noise_multiplier=2.0, epsilon=budget), checkpoint.newest(tmp_path), count=9)

    assert (first.version, second.version, third.version) == (1, 2, 2)
    assert reports[-1].monitor["epsilon"] <= budget
    assert second.convergence["reason"].startswith("privacy budget: a round more would make epsilon")
    assert none == []


def test_a_larger_budget_lets_a_run_that_ended_for_its_own_go_on_counting(tmp_path):
    def budget(rounds):
        return epsilon_of(((2.0, 1.0, rounds),), 1e-5) + 1e-6

    ended, _ = run(private(noise_multiplier=2.0, epsilon=budget(2)), count=9)
    checkpoint.save(tmp_path, ended)
    too_little, none = run(
        private(noise_multiplier=2.0, epsilon=budget(3) - 1e-3), checkpoint.newest(tmp_path), count=9
    )
    resumed, reports = run(private(noise_multiplier=2.0, epsilon=budget(4)), checkpoint.newest(tmp_path), count=9)
    at_once, _ = run(private(noise_multiplier=2.0, epsilon=budget(4)), count=9)

    assert (ended.version, too_little.version, none) == (2, 2, [])
    assert [report.monitor["epsilon"] for report in reports] == [
        epsilon_of(((2.0, 1.0, number),), 1e-5) for number in (3, 4)
    ]
    assert checkpoint.to_bytes(resumed) == checkpoint.to_bytes(at_once)


def test_a_run_that_ended_for_another_reason_stays_ended_whatever_its_budget():
    reason, settings = "accuracy 0.9 reached the target 0.9", Privacy(clip_norm=1.0, clients=CLIENTS)
    start = ServerState(1, {"w": np.zeros(4, np.float32)}, convergence={"reason": reason})

    state, reports = run(private(), start)

    assert (state.version, reports) == (1, [])
    assert is_over(reason, settings, 1.0, {})
    assert not is_over(None, settings, 1.0, {})


def test_a_budget_that_allows_no_round_is_refused_before_the_first():
    with pytest.raises(
        SettingsError, match=r"a round more would make epsilon .* after 0 rounds; raise it, or the noise"
    ):
        run(private(epsilon=0.1))


def test_seeded_runs_stop_and_go_on_with_the_same_bits(tmp_path):
    whole, _ = run(private(quantile=0.5, noise_multiplier=0.3))
    first, _ = run(private(quantile=0.5, noise_multiplier=0.3), count=1)
    checkpoint.save(tmp_path, first)
    resumed, _ = run(private(quantile=0.5, noise_multiplier=0.3), checkpoint.newest(tmp_path))

    assert checkpoint.to_bytes(whole) == checkpoint.to_bytes(resumed)


def test_nobody_can_repeat_a_run_whose_noise_is_unpredictable():
    one, other = (run(private(randomness="unpredictable"), count=1)[0] for _ in range(2))

    assert not np.array_equal(one.arrays["w"], other.arrays["w"])


def test_a_client_that_sends_anything_moves_the_model_by_its_share_of_the_clip():
    honest, _ = run(private(), count=1)
    attacked, _ = run(private(), count=1, learn=partial(learnt, far="client-2"))

    # It was there before, so it moves by twice what it could add.
    assert 0 < np.linalg.norm(attacked.arrays["w"] - honest.arrays["w"]) <= 2.0 / CLIENTS * (1 + 1e-5)


def test_a_part_of_the_clients_is_asked_by_chance_and_counts_for_less():
    strategy = private(rate=0.5, noise_multiplier=2.0)
    _, reports = run(strategy, count=8)

    asked = [report.clients for report in reports]
    assert len(set(asked)) > 1
    assert reports[-1].monitor["epsilon"] == epsilon_of(((2.0, 0.5, 8),), 1e-5)
    assert reports[-1].monitor["epsilon"] < epsilon_of(((2.0, 1.0, 8),), 1e-5)


def test_a_round_for_which_chance_picked_nobody_is_noised_and_counted():
    strategy = private(rate=1e-9, noise_multiplier=5.0)
    state, reports = run(strategy, count=2)

    assert [report.clients for report in reports] == [0, 0]
    assert not np.array_equal(state.arrays["w"], np.zeros((3, 4)))
    assert strategy.private.account.releases == 2


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (ON.replace("equal", "units"), "got rule mean and weights units; set rule to mean and weights to equal"),
        (f"{ON} aggregation.rule=geometric_median", "got rule geometric_median"),
        (f"{ON} rounds.late.policy=discount", "through its clipped change alone, got rounds.late.policy discount"),
        (f"{ON} rounds.count=forever", 'got rounds.count "forever"'),
        (f"{ON} rounds.guard.norm_medians=4", "got rounds.guard.norm_medians 4"),
        (f"{ON} rounds.closing.rows=9", "got rounds.closing.rows 9"),
        (f"{ON} training.control_variates=true", "got training.control_variates"),
        (f"{ON} rounds.stopping.metric=train_loss rounds.stopping.patience=2", "rounds.stopping.metric train_loss"),
    ],
)
def test_what_lets_rows_decide_more_than_the_clipped_change_is_refused(chosen, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load(Simulation, overrides=chosen.split())


def test_running_statistics_that_travel_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"no running statistics that travel, got .*; set training.norm to group"):
        run_in(tmp_path / "run", chosen_settings(f"{NORMED} {ON}"))


def test_a_simulation_learns_and_tells_epsilon(tmp_path):
    text = f"{ON} aggregation.privacy.randomness=seeded aggregation.privacy.noise_multiplier=0.5 streamed.clients=0"
    state, entries = finished(tmp_path / "run", chosen_settings(f"{text} private.clients=4 rounds.count=2"))

    assert state.version == 2
    assert entries[-1]["monitor"]["epsilon"] == pytest.approx(epsilon_of(((0.5, 1.0, 2),), 1e-5))
    assert entries[-1]["train_loss"] is None
    assert entries[-1]["rows"] == {}
