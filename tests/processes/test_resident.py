"""Trainers that are real processes: the bits of a process for each message, through kills, and no survivor."""

import json
import os
import signal
import threading
from contextlib import ExitStack, contextmanager
from runpy import run_path

import pytest
from programs import Program, command_line, environment, until

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.launch import bundle, commands
from fedmb.launch.kept_running import KeptRunning
from fedmb.settings import to_toml
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.recipe import Training

STEPS, BATCH, ROWS_PER_RECORD = 6, 16, 8
ROUND_RECORDS = STEPS * BATCH // 2 // ROWS_PER_RECORD  # half of a batch is replayed, once there is something to replay
TRAINING = Training.plain(batch_size=BATCH, steps=STEPS, learning_rate=0.2)


@pytest.fixture
def stream(tmp_path):
    """A log, and what appends records to it."""
    log = FileLog.open(tmp_path / "log", fsync=FsyncPolicy.never(), create=True)
    writer, codec, rows = log.writer("rows", 0), PackedCodec(Digits.schema), Digits().train_rows()

    def feed(first, count):
        for at in range(first * ROWS_PER_RECORD, (first + count) * ROWS_PER_RECORD, ROWS_PER_RECORD):
            writer.append(codec.encode({name: array[at : at + ROWS_PER_RECORD] for name, array in rows.items()}))
        writer.flush()

    yield f"file://{tmp_path}/log?topic=rows", feed
    writer.close()


class Site:
    """A client's directory and, if asked for, its trainer; the app is the real one, in this process."""

    def __init__(self, place, name, source, **told):
        self.directory = place / name
        self.directory.mkdir(parents=True)
        self.file = self.directory / "client.toml"
        self.file.write_text(to_toml(ClientSettings(name=name, source=source, state=self.directory, **told)))
        self.log_file = place / f"{name}.log"

    @contextmanager
    def trainer(self):
        command = commands.trainer(self.file)
        with self.log_file.open("wb") as log, KeptRunning("trainer", command, environment(), log):
            yield

    @property
    def log(self):
        return self.log_file.read_text()

    def node(self, *, resident):
        return {"settings": str(self.file)} | ({"trainer": str(self.directory / "trainer")} if resident else {})

    def trainer_pid(self):
        return int(self.log.rpartition("trainer ready client=")[2].partition("pid=")[2].split()[0])


def digests(run):
    return {file.name for _, file in checkpoint.generations(run.checkpoints)}


def federate(place, sites, *, resident, rounds=3, on_round=lambda state: None):
    app = run_path(str(bundle() / "clients" / "app.py"))["app"]
    run = RunDirectory(place / "run")
    nodes = {number: site.node(resident=resident) for number, site in enumerate(sites, start=2)}
    server = Server(Digits(), Rounds(count=rounds), MiniBatchFedAvg(seed=3), run, seed=3, training=TRAINING)
    with ExitStack() as running:
        if resident:
            for site in sites:
                running.enter_context(site.trainer())
        server.train(InProcessGrid(app, nodes), sinks=[Told(on_round)])
    return digests(run)


class Told:
    """A sink that lets a test do something between two rounds."""

    def __init__(self, on_round):
        self.on_round = on_round

    def report(self, report):
        self.on_round(report)

    def close(self):
        pass


def test_trainers_learn_the_bits_of_a_process_for_each_message(tmp_path, stream):
    url, feed = stream
    feed(0, 4 * ROUND_RECORDS)
    private = {"privacy": ClientPrivacy(clip_norm=1, noise_multiplier=0.01, randomness="seeded")}
    found = {
        name: federate(
            tmp_path / name,
            [Site(tmp_path / name, "ward", "table:task?share=0&of=2", **private), Site(tmp_path / name, "meter", url)],
            resident=name == "resident",
        )
        for name in ("resident", "alone")
    }
    accounts = [json.loads((tmp_path / name / "ward" / "privacy.json").read_text()) for name in found]

    assert found["resident"] == found["alone"]
    assert accounts[0] == accounts[1]
    assert accounts[0]["whole"] == [[0.005, 1.0, 3]]
    assert len(found["alone"]) == 2


def test_a_trainer_that_is_killed_while_it_learns_changes_no_bit(tmp_path, stream):
    url, feed = stream
    feed(0, ROUND_RECORDS + 2)  # enough for a round, which has nothing to replay at first, and for a part of the next
    site = Site(tmp_path / "killed", "meter", url)

    def kill_while_it_waits_for_rows():
        until(lambda: site.log.count("trainer asked client=meter") == 2, 120, lambda: site.log)
        os.kill(site.trainer_pid(), signal.SIGKILL)
        feed(ROUND_RECORDS + 2, 2 * ROUND_RECORDS)

    killer = threading.Thread(target=kill_while_it_waits_for_rows)

    def on_round(report):
        if report.round == 1:
            killer.start()

    found = federate(tmp_path / "killed", [site], resident=True, rounds=2, on_round=on_round)
    killer.join()

    assert site.log.count("trainer ready") == 2
    assert found == federate(tmp_path / "alone", [Site(tmp_path / "alone", "meter", url)], resident=False, rounds=2)


@pytest.fixture
def client(tmp_path):
    """A client whose server is not there, with its trainer; it waits for one before it starts a SuperNode."""
    source = ["--name", "ward", "--source", "table:task?share=0&of=2"]
    with Program(tmp_path, "client", "client", "--server", "127.0.0.1:9", *source) as program:
        program.logged("trainer ready client=ward")
        yield program


def test_a_trainer_ends_with_its_client(client):
    started = client.below()

    client.send(signal.SIGTERM)

    assert client.ended(60) == ExitCode.OK
    assert not [line for process in started if (line := command_line(process))]


def test_a_trainer_does_not_outlive_a_client_that_is_killed(client):
    started = client.below()

    client.send(signal.SIGKILL)

    until(lambda: not any(map(command_line, started)), 60, lambda: str(started))


def test_a_trainer_that_is_killed_is_there_again(client):
    first = int(client.log.partition("trainer ready client=ward pid=")[2].split()[0])

    os.kill(first, signal.SIGKILL)

    until(lambda: client.log.count("trainer ready client=ward") == 2, 120, lambda: client.log)
    assert "trainer ended code=137" in client.log
