"""Rounds that close without a client that is held up, and what becomes of its update, between real processes.

Three clients stand; two servers come one after the other. A client is held up by stopping its trainer, so what comes
when is decided here, by conditions and by no sleep.
"""

import json
import os
import signal
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from kafka_broker import free_port
from programs import PATIENT, Program, until

from fedmb.errors import NotEnoughData
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.rounds import Watch
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy_choice import strategy_from
from fedmb.settings import load
from fedmb.simulation.late_grid import LateGrid
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import read_lines
from fedmb.training.device import computing
from fedmb.training.task import load_task

pytestmark = pytest.mark.timeout(900)  # idle: about 50 s; other work on the machine multiplies it

SEED = 3
NAMES = ("ward", "meter", "far")
WAYS = {
    "needed": (  # a round needs two of three, asks all, and drops who comes late
        *("rounds.count=3", "rounds.fraction_train=0.6", "rounds.over_sampling=0.5", "rounds.quorum=2"),
        *("training.control_variates=true", "aggregation.weights=equal", "aggregation.optimizer.name=fedadam"),
    ),
    "buffered": (  # a version of every two updates, and late ones count for less
        *("rounds.count=2", "rounds.late.policy=discount", "rounds.late.buffer=2", "rounds.quorum=2"),
        *("aggregation.rule=fednova", "aggregation.optimizer.name=fedavgm", "aggregation.optimizer.rate=0.5"),
    ),
}


COUNTED = {
    "needed": [("enough", ["meter", "ward"]), ("replies", ["meter", "ward"]), ("enough", ["far", "meter"])],
    "buffered": [("enough", ["meter", "ward"]), ("enough", ["far", "ward"])],
}
"""What closes each round, with whom; in the second of three far is at work for the first, and asked nothing."""


def source(name):
    return f"table:task?share={NAMES.index(name)}&of={len(NAMES)}"


class Site(Program):
    """A client that can be held up; it waits for its first server until its trainer is ready."""

    def __init__(self, place, name, port):
        self.name, self.tally = name, place / "state" / name / "tally.json"
        super().__init__(
            place, name, "client", "--server", f"127.0.0.1:{port}", "--name", name, "--source", source(name)
        )

    @property
    def trainer(self):
        return int(self.logged(f"trainer ready client={self.name} pid=").split()[0])

    def hold(self):
        os.kill(self.trainer, signal.SIGSTOP)

    def let_go(self):
        os.kill(self.trainer, signal.SIGCONT)

    @property
    def answered(self):
        """Messages to which a reply is on its way, and no trainer needed for it any more."""
        return json.loads(self.tally.read_text())["rounds"] if self.tally.exists() else 0

    def until_answered(self, more, since):
        until(lambda: self.answered == since + more, 240, lambda: f"{self.answered} of {since} + {more}: {self.log}")

    def until_idle(self):
        until(lambda: self.log.count("trainer asked ") == self.log.count("trainer answered "), 240, lambda: self.log)

    def __exit__(self, *error):
        self.let_go()
        super().__exit__(*error)


class Federation:
    """Three clients, all held, and a server on their port for each way."""

    def __init__(self, place, open_parts):
        self.place, self.port, self.open_parts = place, free_port(), open_parts
        sites = [open_parts.enter_context(Site(place, name, self.port)) for name in NAMES]
        self.ward, self.meter, self.far = sites
        for site in sites:
            site.hold()

    def serve(self, way):
        told = ("training.steps=4", "checkpoints.keep_hours=inf", *WAYS[way])
        options = ["--seed", SEED, "--min-clients", 3, "--run-dir", way, "--port", self.port]
        sets = [part for one in told for part in ("--set", one)]
        return self.open_parts.enter_context(Program(self.place, way, "server", *options, *sets, *PATIENT))

    def over(self, server):
        """How a run ended, once no client is at work for it any more and all are held."""
        found = (server.ended(), server.log)
        for site in (self.ward, self.meter, self.far):
            site.let_go()
            site.until_idle()
            site.hold()
        return found


def drop_who_comes_late(federation):
    """Rounds of meter and ward, of the same, and of meter and far; in the second far answers the first."""
    ward, meter, far = federation.ward, federation.meter, federation.far
    server = federation.serve("needed")
    meter.let_go()
    meter.until_answered(1, 0)
    meter.hold()
    ward.let_go()  # which closes the first round
    ward.until_answered(2, 0)
    ward.hold()
    far.let_go()
    found = SimpleNamespace(late=server.logged("update rejected round=2 client=far reason="))
    meter.let_go()  # which closes the second round; in the third nobody waits for ward
    found.code, found.log = federation.over(server)
    return found


def count_who_comes_late(federation):
    """Rounds of meter and ward, and of ward and far, which answers the first round in the second."""
    ward, meter, far = federation.ward, federation.meter, federation.far
    told = meter.answered
    server = federation.serve("buffered")
    meter.let_go()
    meter.until_answered(1, told)
    meter.hold()
    ward.let_go()  # which closes the first round
    server.logged("round closed round=1 ")
    far.let_go()
    found = SimpleNamespace(late=server.logged("late update counted "))
    found.code, found.log = federation.over(server)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("stragglers")


@pytest.fixture(scope="module")
def runs(place):
    with ExitStack() as open_parts:
        federation = Federation(place, open_parts)
        return {"needed": drop_who_comes_late(federation), "buffered": count_who_comes_late(federation)}


def told_of(place, way):
    return [entry for _, entry in read_lines(place / way / "metrics.jsonl")]


@pytest.mark.parametrize("way", WAYS)
def test_a_round_closes_with_those_it_needs_while_others_are_held_up(way, runs, place):
    entries = told_of(place, way)

    assert runs[way].code == ExitCode.OK, runs[way].log
    assert [(entry["closed_by"], entry["accepted"]) for entry in entries] == COUNTED[way]


def test_a_late_update_is_dropped_where_no_policy_counts_it(runs, place):
    assert "must start from version 1, got 0; it came late" in runs["needed"].late
    assert [*told_of(place, "needed")[1]["rejected"]] == ["far"]


def test_by_policy_it_counts_for_less(runs, place):
    assert runs["buffered"].late == "client=far versions=1 factor=0.707"  # 2 ** -0.5
    assert [entry["late"] for entry in told_of(place, "buffered")] == [{}, {"far": 1}]


class Present:
    """A client's training that fails in the rounds in which the client was not in time."""

    def __init__(self, trainer, versions):
        self.trainer, self.client, self.versions = trainer, trainer.client, versions

    def run(self, arrays, *, base_version, **told):
        if base_version not in self.versions:
            raise NotEnoughData("held up")
        return self.trainer.run(arrays, base_version=base_version, **told)


@pytest.mark.parametrize("way", WAYS)
def test_every_version_has_the_bits_of_one_process_in_which_the_same_updates_count(way, runs, place, tmp_path):
    settings = load(ServerSettings, file=place / way / "config.toml")
    entries, trainers = told_of(place, way), {}
    for name in NAMES:
        own = ClientSettings(name=name, source=source(name), state=tmp_path / name)
        counted = {entry["round"] - 1 - entry["late"].get(name, 0) for entry in entries if name in entry["accepted"]}
        trainers[name] = Present(trainer_for(own, seed=SEED, training=settings.training.model_dump()), counted)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    task, run = load_task(settings.task), RunDirectory(tmp_path / "run")
    strategy = strategy_from(
        settings.aggregation, settings.training, settings.rounds, task, seed=SEED, directory=run.state
    )
    server = Server(
        *(task, settings.rounds, strategy, run), seed=SEED, training=settings.training, keeping=settings.checkpoints
    )
    nodes = {number: {"client": name} for number, name in enumerate(NAMES, start=2)}
    delays = {number: entries[-1]["late"].get(node["client"], 0) for number, node in nodes.items()}

    with computing(threads=1, repeatable=True):  # as every client process does
        server.train(LateGrid(app, nodes, delays), watch=Watch(scorer(task, {"": task.test_rows()})))

    deployed, simulated = (
        [file.name for _, file in checkpoint.generations(directory)]
        for directory in (place / way / "checkpoints", run.checkpoints)
    )
    assert len(deployed) == len(entries)
    assert deployed == simulated
