"""A real server on a Python that has no torch: its clients build the first model, and say what of it is trained.

It steps with an optimiser and with control variates, of a model that has running statistics too.
"""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from normed_digits import NormedDigits
from programs import PATIENT, ROOT, Program

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.server import Server
from fedmb.federation.strategy_choice import strategy_from
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import read_lines
from fedmb.training.device import computing
from fedmb.training.parameters import parameter_names, statistics_names

pytestmark = pytest.mark.timeout(900)

SEED, CLIENTS = 7, ("ward", "clinic")
TASK = "normed_digits:NormedDigits"
STEPPING = ("aggregation.optimizer.name=fedadam", "aggregation.weights=equal", "training.control_variates=true")
TRAIN = [part for one in (*STEPPING, "training.steps=12") for part in ("--set", one)]


class Torchless(Program):
    """A program that cannot import torch, nor can what it starts."""

    path = os.pathsep.join([str(ROOT / "tests" / "processes" / "torchless"), str(ROOT)])


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    place = tmp_path_factory.mktemp("torchless")
    shutil.copy(ROOT / "tests" / "contracts" / "normed_digits.py", place)
    options = ["--seed", SEED, "--rounds", 2, "--min-clients", 2, "--run-dir", "run", "--port", 0, *TRAIN, *PATIENT]
    with Torchless(place, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        told = [["--server", address, "--name", name, "--source", "table:task", "--task", TASK] for name in CLIENTS]
        first, second = (Program(place, name, "client", *each) for name, each in zip(CLIENTS, told, strict=True))
        with first, second:
            code = server.ended()
            for client in (first, second):
                client.send(signal.SIGTERM)
    return SimpleNamespace(
        place=place,
        code=code,
        log=server.log,
        state=checkpoint.newest(place / "run" / "checkpoints"),
        metrics=[entry for _, entry in read_lines(place / "run" / "metrics.jsonl")],
    )


def test_the_run_ends_as_any_other(federation):
    assert federation.code == ExitCode.OK, federation.log
    assert federation.state.version == 2


def test_it_was_told_what_is_trained_and_keeps_it(federation):
    assert "initial model taken clients=2 of=2" in federation.log
    assert federation.state.parameters == tuple(sorted(parameter_names(NormedDigits())))
    assert statistics_names(NormedDigits()) < federation.state.arrays.keys()


def test_every_version_has_the_bits_of_a_server_with_torch(federation, tmp_path):
    settings = load(ServerSettings, file=federation.place / "run" / "config.toml")
    told, trainers = settings.training.model_dump(), {}
    for name in CLIENTS:
        own = ClientSettings(name=name, source="table:task", state=tmp_path / name, task=TASK)
        trainers[name] = trainer_for(own, seed=SEED, training=told)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    task, run = NormedDigits(), RunDirectory(tmp_path / "run")
    strategy = strategy_from(
        settings.aggregation, settings.training, settings.rounds, task, seed=SEED, directory=tmp_path
    )
    server = Server(task, settings.rounds, strategy, run, seed=SEED, training=settings.training)

    with computing(threads=1, repeatable=True):  # as every client process does
        server.train(InProcessGrid(app, {2: {"client": "ward"}, 3: {"client": "clinic"}}))

    deployed, simulated = (
        [file.name for _, file in checkpoint.generations(directory)]
        for directory in (federation.place / "run" / "checkpoints", run.checkpoints)
    )
    assert len(deployed) == 2
    assert deployed == simulated


def test_accuracy_is_told_of_the_rows_that_clients_learn(federation):
    for entry in federation.metrics:
        assert entry["scores"] == {}
        assert 0 < entry["monitor"]["train_accuracy"] < 1
