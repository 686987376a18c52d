"""Server, daemon and clients of the page on streams, each a real process, on a real broker.

One client reads a partition of a topic itself and is killed between two rounds, another one reads the ring of a daemon
on the other partition. Two more, the members of a consumer group, go on with the run and a topic of their own.
"""

import os
import re
import shlex
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from programs import PATIENT, ROOT, Program, command_line, until

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.rounds import Watch
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.federation.stream_feed import StreamFeed, feeder_for
from fedmb.federation.stream_ledger import ledger_at
from fedmb.federation.stream_schema import schema_text
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import Position, StreamPartition
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import read_lines
from fedmb.training.device import computing
from fedmb.training.task import load_task

pytestmark = pytest.mark.timeout(1800)  # other work on the machine multiplies what an idle one takes

PAGE = (ROOT / "docs" / "guide" / "streams.md").read_text()
RECORDS, ROWS_PER_RECORD = 300, 8
LONG = 600.0  # seconds, of whole rounds beside whatever else the machine computes
GROUP_ROUNDS = 2


def on_the_page(verb):
    """Arguments of the page's one command of this verb that no console block runs."""
    (command,) = re.findall(rf"^fedmb ({verb} .*)$", PAGE, re.MULTILINE)
    return shlex.split(command)


def learnt_of(ledger, partition):
    here = ledger.position(partition)
    return here.offset * ROWS_PER_RECORD + here.row


def told_of(run):
    return [entry for _, entry in read_lines(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="module")
def federation(kafka, place):
    """A round, the client of the topic killed and started again, and two more rounds."""
    topic = f"federation-{os.getpid()}"
    found = SimpleNamespace(url=f"kafka://{kafka.address}/{topic}", run=place / "runs" / "ring")
    found.partitions = [StreamPartition(open_log(found.url).id, topic, number) for number in range(2)]
    (place / "schema.json").write_text(schema_text(Digits.schema))
    with ExitStack() as running:

        def start(name, *arguments):
            return running.enter_context(Program(place, name, *arguments))

        server = start("server", *on_the_page("server"), "--rounds", 1, "--min-clients", 2, "--port", 0, *PATIENT)
        feeds = [start(f"feed-{number}", *feeding(found.url, number)) for number in range(2)]
        found.codes = [feed.ended() for feed in feeds]
        found.poured = place / "rows.ring"
        poured = ["--schema", "schema.json", "--ring", found.poured.name]
        began = time.monotonic()
        daemon = start("daemon", "stream", "run", f"{found.url}?partition=0", *poured)
        until(lambda: found.poured.exists() and ledger_at(found.poured), 60, lambda: daemon.log)
        found.daemon_seconds = time.monotonic() - began
        address = server.logged("server listening address=").split()[0]
        meter = start("meter", *on_the_page("client"), "--server", address)
        ward = ["client", "--name", "ward", "--source", f"{found.url}?partition=1", "--server", address]
        killed = start("ward", *ward)
        found.codes.append(server.ended(LONG))

        started = killed.below()
        killed.send(signal.SIGKILL)
        until(lambda: not any(map(command_line, started)), 60, lambda: str(started))
        port = address.rpartition(":")[2]
        found.server = start("resumed", "server", "--resume", found.run, "--rounds", 3, "--port", port)
        found.server.logged("server listening")
        began = time.monotonic()
        again = start("again", *ward)
        again.logged("round trained", LONG)
        found.client_seconds = time.monotonic() - began
        found.codes.append(found.server.ended(LONG))
        for program in (meter, again, daemon):
            program.send(signal.SIGTERM)
        found.codes += [program.ended() for program in (meter, again, daemon)]
    return found


def feeding(url, number):
    """Words that fill one of a topic's two partitions."""
    told = ["--name", number, "--records", RECORDS, "--rows-per-second", "inf"]
    return ["stream", "feed", f"{url}?create_partitions=2&partition={number}", *told]


def test_every_process_ends_well(federation, capsys):
    with capsys.disabled():
        print(
            f"\nfrom the start of a process: daemon {federation.daemon_seconds:.1f} s until its ring has rows, client "
            f"{federation.client_seconds:.1f} s until it has learnt, beside a server that starts too"
        )

    assert federation.codes == [ExitCode.OK] * 7
    assert "rounds      3 of 3" in federation.server.output
    assert list(ledger_at(federation.poured).values()) == [Position(RECORDS)]


def test_the_ledger_counts_each_partitions_rows_once(federation):
    state, told = checkpoint.newest(federation.run / "checkpoints"), told_of(federation.run)

    assert [(entry["round"], entry["clients"], entry["rejected"]) for entry in told] == [(n, 2, {}) for n in (1, 2, 3)]
    assert sorted(state.ledger) == federation.partitions
    for client, partition in zip(("meter", "ward"), federation.partitions, strict=True):
        assert state.learnt[client]["stream"] == learnt_of(state.ledger, partition) > 0
    assert sum(entry["rows"]["stream"] for entry in told) == sum(rows["stream"] for rows in state.learnt.values())


def test_the_record_of_the_ring_is_that_of_the_page(federation, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "300")
    main(["model", "show", "runs/ring"])
    shown = capsys.readouterr().out.replace(str(federation.partitions[0]), "fedmb-on-loopback-4111/rows[0]")

    for line in re.findall(r"^ +meter: .*|^stream +fedmb-on.* of meter,.*", PAGE, re.MULTILINE):
        assert line in shown.splitlines()


def test_the_bits_are_those_of_one_process_that_reads_the_topic(federation, tmp_path):
    settings = load(ServerSettings, file=federation.run / "config.toml")
    told = settings.training.model_dump()
    trainers = {}
    for number, name in enumerate(("meter", "ward")):
        own = ClientSettings(name=name, source=f"{federation.url}?partition={number}", state=tmp_path / name)
        trainers[name] = trainer_for(own, seed=settings.seed, training=told)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    run = RunDirectory(tmp_path / "run")
    strategy = MiniBatchFedAvg(seed=settings.seed)
    task = load_task(settings.task)
    server = Server(task, settings.rounds, strategy, run, seed=settings.seed, training=settings.training)

    with computing(threads=1, repeatable=True):  # as every client process does
        grid = InProcessGrid(app, {2: {"client": "meter"}, 3: {"client": "ward"}})
        server.train(grid, watch=Watch(scorer(task, {"": task.test_rows()})))

    for trainer in trainers.values():
        trainer.source.close()
    deployed, simulated = (
        {file.name: file.read_bytes() for _, file in checkpoint.generations(directory)}
        for directory in (federation.run / "checkpoints", run.checkpoints)
    )
    assert [name[:12] for name in deployed] == ["round-000002", "round-000003"]
    assert deployed == simulated


def test_members_of_a_group_go_on_with_the_model_and_learn_each_row_once(federation, kafka, place):
    topic = f"{federation.partitions[0].topic}-group"
    url = f"kafka://{kafka.address}/{topic}"
    for number in range(2):
        filled = f"{url}?create_partitions=2&partition={number}"
        feed = StreamFeed(url=filled, name=str(number), records=RECORDS, rows_per_second=float("inf"))
        feeder_for(feed).run(threading.Event())
    run = place / "runs" / "group"
    shutil.copytree(federation.run, run)
    before = checkpoint.newest(run / "checkpoints")
    resume = ["--resume", run, "--rounds", 3 + GROUP_ROUNDS, "--port", 0]
    with Program(place, "group", "server", *resume) as server:
        address = server.logged("server listening address=").split()[0]
        told = ["--server", address, "--source", f"{url}?group={topic}&away_seconds=600"]
        with (
            Program(place, "a", "client", "--name", "a", *told) as one,
            Program(place, "b", "client", "--name", "b", *told) as two,
        ):
            code = server.ended(LONG)
            for member in (one, two):
                member.send(signal.SIGTERM)
            codes = [code, one.ended(), two.ended()]
    state, entries = checkpoint.newest(run / "checkpoints"), told_of(run)[3:]
    dealt = [partition for partition in state.ledger if partition.topic == topic]
    rows = sum(learnt_of(state.ledger, partition) for partition in dealt)

    assert codes == [ExitCode.OK] * 3
    assert [entry["round"] for entry in entries] == [4, 5]
    assert entries[-1]["clients"] == 2, "each has kept partitions of its own since the first round"
    assert entries[-1]["rejected"] == {}
    assert rows == sum(entry["rows"].get("stream", 0) for entry in entries) > 0
    assert rows == sum(state.learnt.get(member, {}).get("stream", 0) for member in "ab")
    assert [state.ledger.position(one) for one in federation.partitions] == list(before.ledger.values())
