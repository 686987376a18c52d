"""A real server on a Python that has no torch: its clients build the first model, and say how well it learns."""

import os
import signal
from types import SimpleNamespace

import pytest
from programs import PATIENT, ROOT, Program

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.tasks.digits import Digits
from fedmb.telemetry.sinks import read_lines
from fedmb.training.parameters import initial_arrays

pytestmark = pytest.mark.timeout(900)

SEED, CLIENTS = 7, ("ward", "clinic")
TRAIN = ("--set", "training.steps=12", "--set", "training.learning_rate.rate=1e-30")
"""A rate at which no weight moves, so that what is stored after a round is what the run began with."""


class Torchless(Program):
    """A program that cannot import torch, nor can what it starts."""

    path = os.pathsep.join([str(ROOT / "tests" / "processes" / "torchless"), str(ROOT)])


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    place = tmp_path_factory.mktemp("torchless")
    options = ["--seed", SEED, "--rounds", 2, "--min-clients", 2, "--run-dir", "run", "--port", 0, *TRAIN, *PATIENT]
    with Torchless(place, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        told = [["--server", address, "--name", name, "--source", "table:task"] for name in CLIENTS]
        first, second = (Program(place, name, "client", *each) for name, each in zip(CLIENTS, told, strict=True))
        with first, second:
            code = server.ended()
            for client in (first, second):
                client.send(signal.SIGTERM)
    return SimpleNamespace(
        code=code,
        log=server.log,
        state=checkpoint.newest(place / "run" / "checkpoints"),
        metrics=[entry for _, entry in read_lines(place / "run" / "metrics.jsonl")],
    )


def test_the_run_ends_as_any_other(federation):
    assert federation.code == ExitCode.OK, federation.log
    assert federation.state.version == 2


def test_it_began_with_the_bits_that_a_server_with_torch_begins_with(federation):
    initial = initial_arrays(Digits(), SEED)

    assert {name: array.tobytes() for name, array in federation.state.arrays.items()} == {
        name: array.tobytes() for name, array in initial.items()
    }
    assert "initial model taken clients=2 of=2" in federation.log


def test_accuracy_is_told_of_the_rows_that_clients_learn(federation):
    for entry in federation.metrics:
        assert entry["scores"] == {}
        assert 0 < entry["monitor"]["train_accuracy"] < 1
