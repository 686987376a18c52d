"""SIGKILL of every part of a federation while it learns: the run ends, with the bits of one that was never disturbed.

One run takes all the kills. A client learns from a stream that is fed a round at a time, so every round stays open
until it is fed: what is killed is killed in the phase that is meant, and no sleep decides. The number of kills is 12,
one of each kind; `make soak` raises it (FEDMB_FEDERATION_KILLS).
"""

import os
import shutil
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka_broker import free_port
from pause_points import POINTS
from programs import PATIENT, ROOT, Program, command_line, figures_at, until

from fedmb.errors import NotEnoughData
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.replaying import Replaying
from fedmb.federation.rounds import Watch
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import read_lines
from fedmb.training.device import computing

KINDS = (*POINTS, "zombie", "superlink", "trainer", "node", "warm", "client", "server")
KILLS = int(os.environ.get("FEDMB_FEDERATION_KILLS", "12"))
PLAN = [KINDS[number % len(KINDS)] for number in range(KILLS)]
# A client that is killed, its node, or what its message's process is forked from, misses the round that was open; one
# that was asked by a killed server learns for it first.
MISSED = sum(map(PLAN.count, ("client", "node", "warm")))
ROUNDS = KILLS + 1 + MISSED + PLAN.count("wait")
RESTARTED = (*POINTS, "zombie", "superlink")  # by the server that started them
SEED, STEPS, BATCH, ROWS_PER_RECORD = 5, 4, 16, 8
DEADLINE = 300.0  # seconds; rounds take 5 on an idle machine
PRIVATE = "table:task?share=0&of=2"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900 + 120 * KILLS)]


class Federation:
    """A server with pause points, a client with a table, and one whose stream is fed by hand."""

    def __init__(self, place):
        self.place, self.port, self.starts = place, free_port(), Counter()
        self.url = f"file://{place}/log?topic=rows"
        self.log = FileLog.open(place / "log", fsync=FsyncPolicy.never(), create=True)
        self.writer, self.rows, self.records = self.log.writer("rows", 0), Digits().train_rows(), 0
        self.codec, self.fed, self.dead = PackedCodec(Digits.schema), 0, 0
        self.pause_file = place / "pause"
        for folder in ("clients", "server"):
            shutil.copytree(ROOT / folder, place / "app" / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(Path(__file__).with_name("pause_points.py"), place / "app" / "server")
        with (place / "app" / "server" / "app.py").open("a") as file:
            file.write("\nfrom server.pause_points import install\n\ninstall()\n")
        self.started = ExitStack()
        self.start_server()
        self.clients = {name: self.client(name) for name in ("ward", "meter")}

    def program(self, name, *arguments):
        self.starts[name] += 1
        program = Program(
            self.place, f"{name}-{self.starts[name]}", *arguments, PAUSE=str(self.pause_file), PYTHONHASHSEED="0"
        )
        return self.started.enter_context(program)

    def start_server(self):
        """The same words each time: the first begins the run, the others go on with it."""
        settings = ("rounds.min_clients=2", f"rounds.deadline_seconds={DEADLINE}", f"training.steps={STEPS}")
        told = [part for one in (*settings, f"training.sizing.size={BATCH}") for part in ("--set", one)]
        options = ["--app", "app", "--port", self.port, "--seed", SEED, "--rounds", ROUNDS, "--resume", "latest"]
        self.server = self.program("server", "server", *options, *told, *PATIENT, "--set", "checkpoints.keep_hours=inf")

    def client(self, name):
        source = PRIVATE if name == "ward" else self.url
        told = ["--set", "replay.share=0.0", "--set", f"streaming.patience_seconds={2 * DEADLINE}"]
        where = ["--server", f"127.0.0.1:{self.port}", "--name", name, "--source", source]
        return self.program(name, "client", *where, *(told if name == "meter" else []))

    @property
    def run(self):
        (found,) = (self.place / "runs").iterdir()
        return found

    def told(self):
        return [entry for _, entry in read_lines(self.run / "metrics.jsonl")]

    def learnt(self):
        """Rounds of the stream that are in the stored model."""
        if not (self.place / "runs").exists():
            return 0
        found = checkpoint.generations(self.run / "checkpoints")
        return sum("meter" in entry["accepted"] for entry in self.told()[: found[-1][0] if found else 0])

    def is_open(self):
        """Whether all that was fed is learnt, and the next round waits for rows."""
        log, owner = self.clients["meter"].log, self.owner()
        is_asked = log.rfind("trainer asked client=") > log.rfind("trainer answered client=")
        return is_asked and self.learnt() == self.fed and owner != self.dead and bool(command_line(owner))

    def owner(self):
        """Id of the server's own process, or of the one that starts it."""
        lock = next(self.place.glob("runs/*/state/owner.lock"), None)
        return int(lock.read_text() or 0) if lock else 0

    def until_open(self):
        until(self.is_open, 400, self.everything)

    def feed(self):
        """Rows for one round."""
        for _ in range(STEPS * BATCH // ROWS_PER_RECORD):
            rows = {name: array[self.records : self.records + ROWS_PER_RECORD] for name, array in self.rows.items()}
            self.writer.append(self.codec.encode(rows))
            self.records = (self.records + ROWS_PER_RECORD) % 1024
        self.writer.flush()
        self.fed += 1

    def kill(self, kind):
        """Kill one part in an open round, and let the round have its rows; when that happened."""
        if kind in POINTS:
            self.pause_file.write_text(kind)
            self.feed()
            until(self.pause_file.with_suffix(".paused").exists, 400, self.everything)
            self.pause_file.unlink()
            self.pause_file.with_suffix(".paused").unlink()
            at = self.killed(self.owner())
            if kind == "wait":
                self.feed()
            return at
        at = getattr(self, f"kill_{kind}")()
        self.feed()
        return at

    def kill_zombie(self):
        """The server's process, while a client learns for it, which answers nobody then."""
        return self.killed(self.owner())

    def kill_superlink(self):
        return self.killed(self.server.running("flower-superlink"))

    def kill_node(self):
        """The SuperNode alone, while its client's trainer learns for it."""
        return self.killed(self.clients["meter"].running("flower-supernode"))

    def kill_warm(self):
        """What the process of a client's message is forked from, while its trainer learns for that."""
        forks = [one for one, line in self.clients["meter"].below().items() if "clients/warm.py" in line]
        return self.killed(self.clients["meter"].forking("clients/warm.py"), forks)

    def kill_trainer(self):
        return self.killed(int(self.clients["meter"].log.rpartition("trainer ready client=meter pid=")[2].split()[0]))

    def kill_client(self):
        at = self.killed_with_all(self.clients["meter"])
        self.clients["meter"] = self.client("meter")
        return at

    def kill_server(self):
        at = self.killed_with_all(self.server)
        self.start_server()
        return at

    def killed(self, process, others=()):
        """When it was; the others are gone then too."""
        self.dead, at = process, time.monotonic()
        os.kill(process, signal.SIGKILL)
        until(lambda: not any(map(command_line, others)), 60, lambda: str(others))
        return at

    def killed_with_all(self, program):
        at = self.killed(program.process.pid, program.below())
        program.process.wait()
        return at

    def everything(self):
        logs = {file.name: file.read_text()[-3000:] for file in sorted(self.place.glob("*.err"))}
        return f"{self.fed} rounds fed, {self.learnt()} learnt\n" + "\n".join(f"{name}: {logs[name]}" for name in logs)


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """What is left of a run that lost a part in each of its rounds."""
    place = tmp_path_factory.mktemp("kills")
    federation = Federation(place)
    found = SimpleNamespace(seconds={kind: [] for kind in KINDS}, figures=[], url=federation.url)
    with federation.started:
        federation.until_open()
        for kind in PLAN:
            at = federation.kill(kind)
            federation.until_open()
            found.seconds[kind].append(time.monotonic() - at)
            found.figures.append(figures_at(federation.server.logged("metrics=").split()[0]))
        federation.feed()
        found.server = (federation.server.ended(400), federation.server.output)
        found.run, found.told = federation.run, federation.told()
        federation.started.close()
        found.trained = Counter(
            (name, line.partition("base_version=")[2].split()[0])
            for name in ("ward", "meter")
            for file in place.glob(f"{name}-*.err")
            for line in file.read_text().splitlines()
            if "round trained client=" in line
        )
        found.everything = federation.everything()
    federation.writer.close()
    return found


def test_the_run_ends_and_says_how_long_it_stood_still(survived, capsys):
    code, output = survived.server
    with capsys.disabled():
        for kind, seconds in survived.seconds.items():
            if seconds:
                print(f"\n{kind} killed {len(seconds)} times, open again after {max(seconds):.1f} s at most", end="")

    assert code == ExitCode.OK, survived.everything
    assert f"rounds      {ROUNDS} of {ROUNDS}" in output
    assert max(max(seconds, default=0.0) for seconds in survived.seconds.values()) < DEADLINE


def test_at_most_the_open_round_is_learnt_again(survived):
    versions = [entry["round"] for entry in survived.told]

    assert versions == list(range(1, ROUNDS + 1))
    assert len(survived.trained) == 2 * ROUNDS - PLAN.count("client")
    assert max(survived.trained.values()) == 2
    assert sum(survived.trained.values()) - len(survived.trained) <= 2 * KILLS


def test_who_watches_sees_what_was_started_again(survived):
    expected = []
    for kind in PLAN:
        expected.append(0 if kind == "server" else (expected or [0])[-1] + (kind in RESTARTED))

    assert [figures["fedmb_server_restarts_total"] for figures in survived.figures] == expected
    assert survived.figures[-1]["fedmb_server_rounds_total"] == ROUNDS - 1


def test_only_a_client_that_was_killed_or_whose_node_was_misses_a_round(survived):
    absent = [entry["round"] for entry in survived.told if entry["accepted"] != ["meter", "ward"]]

    assert len(absent) == MISSED


class Present:
    """A client's training that fails in the rounds in which the client was not there."""

    def __init__(self, trainer, absent):
        self.trainer, self.client, self.absent = trainer, trainer.client, absent

    def run(self, arrays, *, base_version, **told):
        if base_version + 1 in self.absent:
            raise NotEnoughData("killed")
        return self.trainer.run(arrays, base_version=base_version, **told)


def test_every_version_has_the_bits_of_a_run_without_kills(survived, tmp_path):
    settings = load(ServerSettings, file=survived.run / "config.toml")
    told, trainers = settings.training.model_dump(), {}
    for name, source in (("ward", PRIVATE), ("meter", survived.url)):
        own = ClientSettings(name=name, source=source, state=tmp_path / name, replay=Replaying(share=0.0))
        absent = {entry["round"] for entry in survived.told if name not in entry["accepted"]}
        trainers[name] = Present(trainer_for(own, seed=SEED, training=told), absent)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    server = Server(
        *(Digits(), settings.rounds, MiniBatchFedAvg(seed=SEED), RunDirectory(tmp_path / "run")),
        seed=SEED,
        training=settings.training,
        keeping=settings.checkpoints,
    )

    with computing(threads=1, repeatable=True):  # as every client process does
        grid = InProcessGrid(app, {2: {"client": "ward"}, 3: {"client": "meter"}})
        server.train(grid, watch=Watch(scorer(server.task, {"": server.task.test_rows()})))

    for one in trainers.values():
        one.trainer.source.close()
    killed, whole = (
        [file.name for _, file in checkpoint.generations(run / "checkpoints")]
        for run in (survived.run, tmp_path / "run")
    )
    assert len(whole) == ROUNDS
    assert killed == whole
