"""Actors, a replay service, learners and a server on CartPole; `make cartpole` goes on until it is solved."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "cartpole"


@pytest.fixture(autouse=True)
def _beside_the_example(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_a_policy_in_numpy_values_actions_as_the_network_does():
    from cartpole import Policy, QNetwork

    torch.manual_seed(0)
    network, x = QNetwork(), np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    values = Policy({name: tensor.numpy() for name, tensor in network.state_dict().items()}).values(x)

    assert np.allclose(values, network.online(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


def test_the_target_is_the_online_network_of_the_last_hundredth_step_and_learns_nothing_itself():
    from cartpole import TARGET_STEPS, QNetwork

    network = QNetwork()
    for step in range(TARGET_STEPS + 1):
        network.follow()
        follows = torch.equal(network.target[0].weight, network.online[0].weight)
        assert follows == (step % TARGET_STEPS == 0)
        with torch.no_grad():
            network.online[0].weight += 1

    assert not [name for name, one in network.named_parameters() if one.requires_grad and name.startswith("target")]


def test_the_loss_is_of_the_double_q_target_and_has_one_value_a_row():
    from cartpole import CartPole

    task, rows = CartPole(), 5
    torch.manual_seed(1)
    model = task.build_model()
    random = np.random.default_rng(2)
    columns = {
        "observation": random.standard_normal((rows, 4)).astype(np.float32),
        "action": random.integers(0, 2, rows),
        "reward": np.ones(rows, np.float32),
        "next_observation": random.standard_normal((rows, 4)).astype(np.float32),
        "terminated": np.zeros(rows, np.bool_),
        "truncated": np.zeros(rows, np.bool_),
        "discount": np.array([0.9, 0, 0.9, 0.5, 1], np.float32),
    }
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    losses = task.loss(task.forward(model, tensors), tensors)
    expected = []
    for row in range(rows):
        value = model.online(tensors["observation"][row])[columns["action"][row]]
        best = model.online(tensors["next_observation"][row]).argmax()
        error = abs(value - (1 + columns["discount"][row] * model.target(tensors["next_observation"][row])[best]))
        expected.append(float(error**2 / 2 if error < 1 else error - 0.5))

    assert np.allclose(losses.detach().numpy(), expected, atol=1e-5)


def test_two_sites_in_one_process_learn_to_balance_longer_than_by_chance():
    from cartpole import Policy, mean_return
    from one_process import run

    by_chance = mean_return(Policy.random(0))
    found = run(sampler="prioritized", seed=0, sites=2, rounds=30)

    assert found["return"] > 3 * by_chance
    assert found["environment_steps"] == 2 * 8 * 25 * 34


def test_a_learner_alone_stores_models_of_what_an_actor_appends_and_goes_on_from_the_newest(tmp_path):
    service = tmp_path / "service.toml"
    sys.path.insert(0, str(FOLDER))
    from processes import SERVICE

    service.write_text(SERVICE.replace("NAME", "site").replace("min_size = 1000", "min_size = 64"))
    with ExitStack() as running:

        def started(name, *command):
            log = running.enter_context((tmp_path / f"{name}.log").open("wb"))
            own = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parents[1])])}
            program = subprocess.Popen([sys.executable, *map(str, command)], env=own, stderr=log, stdout=log)
            running.callback(program.wait)
            running.callback(program.terminate)
            return program

        serving = started("service", "-m", "fedmb", "replay", "serve", "--config", service)
        while "service ready address=" not in (said := (tmp_path / "service.log").read_text()):
            assert serving.poll() is None, said
        address = said.partition("service ready address=")[2].split()[0]
        run, beat = tmp_path / "run", tmp_path / "beat"
        started("actor", FOLDER / "actor.py", "--address", address, "--table", "site", "--run", run, "--beat", beat)
        told = ["--source", f"replay://{address}/site?prioritizes=true", "--run", run, "--steps", 20]
        for models in (2, 3):
            learner = started(f"learner-{models}", FOLDER / "learner.py", *told, "--models", models)
            log = tmp_path / f"learner-{models}.log"
            assert learner.wait(120) == 0, log.read_text()
            assert f"learnt {models} models" in log.read_text()

    assert sorted(path.name[:12] for path in (run / "checkpoints").iterdir()) == ["round-000002", "round-000003"]
    assert beat.exists()


@pytest.mark.timeout(600)
def test_actors_service_learners_and_server_work_together_as_processes(tmp_path):
    command = [sys.executable, FOLDER / "processes.py", "--rounds", "2", "--steps", "100", "--place", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)
    logs = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}

    assert "round 2: mean return" in done.stdout, (done.stderr, logs)
    played = re.findall(r"site-\d: played (\d+) steps, the last by version (\d+)", done.stdout)
    assert len(played) == 2
    assert all(int(steps) >= 1000 and int(version) >= 1 for steps, version in played), "models must reach the actors"
    assert re.search(r"served 2 tables with [1-9]\d{3,} rows", logs["service"])
