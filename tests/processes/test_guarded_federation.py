"""Two clients with keys, over TLS and through the door, while others try the port that they use.

The SuperNode of one is killed in round 1, the SuperLink behind the door in round 2, and in rounds 3 and 4 the same
client sends what is no update. The models are private, and an optimiser steps behind the noise.
"""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from doors import make_keys, post, resident_bytes
from programs import PATIENT, Program, figures_at, until
from test_intruders import headers
from wrong_clocks import clock

from fedmb.access.door import PULL, PUSH
from fedmb.access.refusal import Reason, refused_by
from fedmb.errors import NotEnoughData
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
from fedmb.training.task import load_task

pytestmark = pytest.mark.timeout(900)  # idle: about 50 s; other work on the machine multiplies it

SEED = 11
HOUR = 3600
SPOILING = "spoiling_digits:Digits"
PRIVACY = ("clip_norm=1", "clients=2", "noise_multiplier=0.1", "randomness=seeded")
SETTINGS = (
    *("training.steps=4", "aggregation.weights=equal", "aggregation.optimizer.name=fedadam"),
    *(f"aggregation.privacy.{one}" for one in PRIVACY),
)
LARGE = 200 * 2**20
CONTROL = ("start-run", "list-runs", "register-node", "list-nodes", "stop-run", "stream-logs", "pull-artifacts")
RUNTIME = ("acquire-task", "pull-messages", "push-messages", "get-nodes", "push-logs")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copy(Path(__file__).with_name("spoiling_digits.py"), folder)
    return folder


def source(share):
    return f"table:task?share={share}&of=2"


def lose_a_node_and_the_superlink(server, ward, meter, found, place):
    """While one client cannot go on, first its own SuperNode is killed, and in the next round the SuperLink."""
    asked = place / "state" / "meter" / "node"
    until(asked.exists, 240, lambda: server.log + meter.log)
    os.kill(meter.running("flower-supernode"), signal.SIGKILL)
    meter.logged("killed node taken off the server's list ")
    server.logged("round closed round=1 ")
    until(asked.exists, 240, lambda: server.log + meter.log)  # so its successor was let in, with the same key
    os.kill(server.running("flower-superlink"), signal.SIGKILL)
    found.superlink = server.logged("superlink lost ")


@pytest.fixture(scope="module")
def federation(place):
    """Four rounds; before its clients come, somebody who was once let in tries what else there is."""
    keys = make_keys(place / "keys", nodes=("ward", "meter"))
    authority = keys / "authority.crt"
    pair = ["--ssl-certfile", keys / "server.crt", "--ssl-keyfile", keys / "server.key", "--ssl-ca-certfile", authority]
    told = [part for one in SETTINGS for part in ("--set", one)]
    run = ["--seed", SEED, "--rounds", 4, "--min-clients", 2, "--run-dir", "run", *told, *PATIENT]
    found = SimpleNamespace()
    with Program(place, "server", "server", *run, "--port", 0, *pair, "--node-keys", keys / "nodes") as server:
        address = server.logged("server listening address=").split()[0]
        superlink = server.running("flower-superlink")
        found.command_lines = list(server.below().values())
        paths = [f"/v1/control/{name}" for name in CONTROL] + [f"/v1/runtime/{name}" for name in RUNTIME]
        found.closed = {path: post(address, authority, path, headers(keys)) for path in [*paths, "/docs", "/health"]}
        before = resident_bytes(superlink)
        body = (b"x" * 2**16 for _ in range(LARGE >> 16))
        found.large = post(address, authority, PUSH, headers(keys) | {"content-type": "application/protobuf"}, body)
        found.grown = resident_bytes(superlink) - before
        once = headers(keys) | {"content-type": "application/protobuf"}
        found.twice = [post(address, authority, PULL, once) for _ in range(2)]
        ward, meter = (
            Program(
                place,
                name,
                "client",
                *("--server", address, "--root-certificates", authority),
                *("--node-key", keys / "nodes" / f"{name}.key", "--name", name, "--source", source(share)),
                *("--task", task),
                **wrong,
            )
            for share, (name, task, wrong) in enumerate(
                (("ward", "fedmb.tasks.digits:Digits", {}), ("meter", SPOILING, clock(HOUR, place)))
            )
        )
        with ward, meter:
            trainer = int(meter.logged("trainer ready client=meter pid=").split()[0])
            os.kill(trainer, signal.SIGSTOP)
            try:
                lose_a_node_and_the_superlink(server, ward, meter, found, place)
            finally:
                os.kill(trainer, signal.SIGCONT)
            server.logged("round closed round=2 ")
            found.restarts = {
                one.process.args[3]: figures_at(one.logged("metrics=").split()[0])[f"fedmb_{verb}_restarts_total"]
                for verb, one in (("server", server), ("client", meter))
            }
            found.server, found.meter = (server.ended(), server.log), meter.log
    return found


def test_the_rounds_end_and_who_sent_no_update_is_named(federation, place):
    code, log = federation.server
    entries = [entry for _, entry in read_lines(place / "run" / "metrics.jsonl")]

    assert code == ExitCode.OK, log
    assert checkpoint.newest(place / "run" / "checkpoints").version == 4
    assert [entry["accepted"] for entry in entries] == [["ward"], ["meter", "ward"], ["ward"], ["ward"]]
    assert [[*entry["rejected"]] for entry in entries[1:]] == [[], ["meter"], ["meter"]]
    for entry, said in ((entries[2], "must be finite"), (entries[3], "must have shape")):
        reason = entry["rejected"]["meter"]
        assert said in reason
        assert f"update rejected round={entry['round']} client=meter reason={reason}" in log


def test_a_killed_node_and_superlink_are_started_again_and_let_in_through_the_door(federation, place):
    first, *_ = (entry for _, entry in read_lines(place / "run" / "metrics.jsonl"))
    (reason,) = first["rejected"].values()

    assert "Node Unavailable" in reason
    assert "clock is off, signing by the server's ahead_seconds=-36" in federation.meter
    assert federation.superlink.startswith("round=1 ")
    assert federation.restarts["server"] == 1
    assert "door ended" not in federation.server[1]


def test_the_model_is_that_of_one_process_bit_for_bit(federation, place, tmp_path):
    settings = load(ServerSettings, file=place / "run" / "config.toml")
    told = settings.training.model_dump()
    trainers = {
        name: trainer_for(
            ClientSettings(name=name, source=source(share), state=tmp_path / name), seed=SEED, training=told
        )
        for share, name in enumerate(("ward", "meter"))
    }
    learn = trainers["meter"].run

    def once(arrays, *, base_version, **told):
        if base_version != 1:
            raise NotEnoughData("it is not there, or what it sends is no update")
        return learn(arrays, base_version=base_version, **told)

    trainers["meter"].run = once
    app = client_app(lambda context: trainers[context.node_config["client"]])
    run, task = RunDirectory(tmp_path / "run"), load_task(settings.task)
    strategy = strategy_from(
        settings.aggregation, settings.training, settings.rounds, task, seed=SEED, directory=run.state
    )
    server = Server(task, settings.rounds, strategy, run, seed=SEED, training=settings.training)

    with computing(threads=1, repeatable=True):  # as every client process does
        server.train(InProcessGrid(app, {2: {"client": "ward"}, 3: {"client": "meter"}}))

    deployed, simulated = (
        [file.name for _, file in checkpoint.generations(directory)]
        for directory in (place / "run" / "checkpoints", run.checkpoints)
    )
    assert len(deployed) == 2
    assert deployed == simulated


def test_control_and_runtime_cannot_be_reached_through_the_nodes_port(federation):
    for path, (status, told) in federation.closed.items():
        assert (status, refused_by(told).reason) == (404, Reason.PATH), path


def test_a_body_of_200_mb_grows_no_process(federation):
    status, told = federation.large

    assert (status, refused_by(told).reason) == (413, Reason.SIZE)
    assert federation.grown < 24 * 2**20  # what passed until the limit of 16 MiB


def test_headers_come_in_once(federation):
    (_, told_first), (status, told) = federation.twice

    assert refused_by(told_first) is None  # whatever the SuperLink says of an empty request
    assert (status, refused_by(told).reason) == (401, Reason.REPLAY)


def test_no_command_line_holds_a_secret(federation, place):
    secrets = [
        line
        for file in place.glob("keys/**/*.key")
        for line in file.read_text().splitlines()
        if len(line) > 20 and "-----" not in line
    ]

    assert secrets
    assert not [line for line in federation.command_lines if any(secret in line for secret in secrets)]
