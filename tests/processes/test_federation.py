"""One server, a private client and a streamed one, each Flower's real processes on loopback."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from programs import PATIENT, Program, asked, certificates, command_line, figures_at, slowness, until
from wrong_clocks import clock

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.rounds import Watch
from fedmb.federation.server import Server, scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import read_lines
from fedmb.training.device import computing
from fedmb.training.task import load_task

pytestmark = pytest.mark.timeout(900)  # idle: 63 s for the longest; other work on the machine multiplies it

SEED = 7
HOUR = 3600
RECORDS, ROWS_PER_RECORD = 300, 8
STEPS, BATCH = 12, 16
PRIVATE = "table:task?share=0&of=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose name would trip a shell or Flower's parser of key-value pairs."""
    folder = tmp_path_factory.mktemp("federation") / 'ward "7" it\'s a=b'
    folder.mkdir()
    return folder


def seconds_of_children(process):
    """CPU time of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def federation(place):
    """Two rounds, and a third by resuming while the clients live on."""
    url = f"file://{quote(str(place / 'log'))}?topic=rows"
    found = SimpleNamespace(url=url)
    with Program(place, "feed", "stream", "feed", url, "--records", RECORDS, "--rows-per-second", "inf") as feed:
        found.feed = (feed.ended(), feed.output)
    train = ["--set", f"training.steps={STEPS}", "--set", f"training.sizing.size={BATCH}"]
    options = ["--seed", SEED, "--rounds", 2, "--min-clients", 2, "--run-dir", "run", "--port", 0, *train, *PATIENT]
    with Program(place, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        ward = ["--server", address, "--name", "ward", "--source", PRIVATE]
        meter = ["--server", address, "--name", "meter", "--source", url, "--state", "meter state"]
        with (
            Program(place, "ward", "client", *ward, **clock(HOUR, place.parent)) as one,
            Program(place, "meter", "client", *meter, **clock(-HOUR, place.parent)) as two,
        ):
            found.first = (server.ended(), server.output, server.log)
            found.metrics = [entry for _, entry in read_lines(place / "run" / "metrics.jsonl")]
            found.state = checkpoint.newest(place / "run" / "checkpoints")
            resume = ["--resume", "run", "--rounds", 3, "--port", address.rpartition(":")[2], "--json"]
            with Program(place, "resumed", "server", *resume) as resumed:
                metrics = resumed.logged('"metrics": "').partition('"')[0]
                found.shown = figures_at(metrics)
                found.health = [asked(metrics, path) for path in ("/healthz", "/readyz")]
                found.second = (resumed.ended(), resumed.output, resumed.log)
            found.shown |= figures_at(one.logged("metrics=").split()[0])
            found.forked = [seconds_of_children(client.forking("clients/warm.py")) for client in (one, two)]
            found.slowness, began = slowness(), time.monotonic()
            for client in (one, two):
                client.send(signal.SIGTERM)
            found.clients = [client.ended() for client in (one, two)]
            found.drain_seconds = time.monotonic() - began
            found.left = one.below() | two.below()
            found.said = [client.log for client in (one, two)]
    return found


def test_the_feeder_filled_the_stream(federation):
    code, output = federation.feed

    assert code == ExitCode.OK
    assert f"appended {RECORDS} records to file://" in output


def test_two_rounds_finish(federation):
    code, output, log = federation.first

    assert code == ExitCode.OK, log
    assert "rounds      2 of 2" in output
    assert [entry["round"] for entry in federation.metrics] == [1, 2]
    assert all(entry["clients"] == 2 and not entry["rejected"] for entry in federation.metrics)
    assert "round closed round=2" in log


def test_the_ledger_counts_exactly_the_rows_that_were_learnt(federation):
    learnt = sum(entry["rows"]["stream"] for entry in federation.metrics)
    ((partition, here),) = federation.state.ledger.items()

    assert federation.state.version == 2
    assert partition.topic == "rows"
    assert here.offset * ROWS_PER_RECORD + here.row == learnt > 0


def test_a_finished_run_goes_on_with_more_rounds_and_the_same_clients(federation, place):
    code, output, log = federation.second
    entries = [entry for _, entry in read_lines(place / "run" / "metrics.jsonl")]

    assert code == ExitCode.OK, log
    assert "rounds      3 of 3" in output
    assert entries[:2] == federation.metrics
    assert entries[2]["clients"] == 2


def test_who_watches_sees_the_rounds_and_rows_of_server_and_client(federation):
    learnt = sum(sum(entry["rows"].values()) for entry in federation.metrics)

    assert federation.shown["fedmb_server_rounds_total"] == 2
    assert federation.shown["fedmb_server_rows_total"] == learnt
    assert federation.shown["fedmb_server_accepted_updates_total"] == 4
    assert federation.shown["fedmb_client_rounds_total"] == 3
    assert federation.shown["fedmb_client_restarts_total"] <= 1  # the SuperNode, if it saw the second server's start
    assert federation.health[0] == (200, "ok\n")


def test_every_line_of_a_server_with_json_is_one_object(federation):
    _, _, log = federation.second
    lines = [json.loads(line) for line in log.splitlines()]

    assert {"time", "level", "logger", "event", "fields"} == set().union(*lines)
    closed = [line["fields"] for line in lines if line["event"] == "round closed"]
    assert [fields["round"] for fields in closed] == [3]
    assert closed[0]["rows/s"] > 0


def test_what_flower_starts_for_a_message_is_a_fork(federation):
    assert min(federation.forked) > 0


def test_clients_drain_on_sigterm(federation):
    assert federation.clients == [ExitCode.OK, ExitCode.OK]
    assert federation.drain_seconds < 5 * federation.slowness
    assert not federation.left


def test_clients_whose_clock_is_an_hour_off_sign_by_the_servers(federation):
    for log, ahead in zip(federation.said, (-HOUR, HOUR), strict=True):
        told = re.search(r"clock is off, signing by the server's ahead_seconds=(-?\d+); set it by NTP", log)
        assert abs(int(told[1]) - ahead) <= 2


def test_real_processes_learn_the_same_bits_as_one_process(federation, place, tmp_path):
    settings = load(ServerSettings, file=place / "run" / "config.toml")
    told = settings.training.model_dump()
    trainers = {
        name: trainer_for(ClientSettings(name=name, source=source, state=tmp_path / name), seed=SEED, training=told)
        for name, source in (("ward", PRIVATE), ("meter", federation.url))
    }
    app = client_app(lambda context: trainers[context.node_config["client"]])
    run = RunDirectory(tmp_path / "run")
    strategy = MiniBatchFedAvg(seed=SEED)
    server = Server(load_task(settings.task), settings.rounds, strategy, run, seed=SEED, training=settings.training)

    watch = Watch(scorer(server.task, {"": server.task.test_rows()}))

    with computing(threads=1, repeatable=True):  # as every client process does
        server.train(InProcessGrid(app, {2: {"client": "ward"}, 3: {"client": "meter"}}), watch=watch)

    for trainer in trainers.values():
        trainer.source.close()
    deployed, simulated = (
        {file.name: file.read_bytes() for _, file in checkpoint.generations(directory)}
        for directory in (place / "run" / "checkpoints", run.checkpoints)
    )
    assert [name[:12] for name in deployed] == ["round-000002", "round-000003"]
    assert deployed == simulated


def test_clients_got_the_process_folders_and_nothing_else(federation, place):
    (app,) = (place / "state" / "ward" / "flower" / "apps").iterdir()

    names = {path.relative_to(app).parts[0] for path in app.rglob("*") if path.is_file()}

    assert names == {"clients", "server", "pyproject.toml"}


def test_a_finished_run_is_not_run_again(federation, place):
    shutil.copytree(place / "run", place / "finished")
    with Program(place, "again", "server", "--resume", "finished") as again:
        code = again.ended()

    assert code == ExitCode.OK
    assert "rounds      3 of 3" in again.output
    assert "listening" not in again.log


def test_a_run_that_fails_says_why_over_tls(tmp_path):
    certificate, key, authority = certificates(tmp_path)
    tls = ["--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", authority]
    with Program(tmp_path, "server", "server", "--run-dir", "run", "--port", 0, *tls) as server:
        address = server.logged("server listening address=").split()[0]
        wrong = ["--server", address, "--root-certificates", authority, "--task", "nowhere:Nothing"]
        with Program(tmp_path, "client", "client", *wrong, "--name", "ward", "--source", PRIVATE):
            code = server.ended()

    assert code == ExitCode.DATA
    assert "error: a round needs at least one usable reply" in server.log
    assert "client ward: task 'nowhere:Nothing' must be importable" in server.log


PROGRAMS = ("keeper.py", "flower-superlink", "flower-superexec", "flwr-serverapp")


@pytest.fixture
def waiting_server(tmp_path):
    """A server with all its processes, the last of which waits for clients."""
    with Program(tmp_path, "server", "server", "--run-dir", "run", "--port", 0) as server:

        def complete():
            lines = server.below().values()
            return all(any(program in line for line in lines) for program in PROGRAMS)

        until(complete, 240, lambda: f"{server.below()} {server.log}")
        yield server


def test_a_server_drains_on_sigterm(waiting_server):
    started = waiting_server.below()
    limit, began = 5 * slowness(), time.monotonic()

    waiting_server.send(signal.SIGTERM)

    assert waiting_server.ended() == ExitCode.OK
    assert time.monotonic() - began < limit
    assert "go on with: fedmb server --resume" in waiting_server.output
    assert not [line for process in started if (line := command_line(process))]


def test_no_process_outlives_a_server_that_is_killed(waiting_server):
    started = waiting_server.below()

    waiting_server.send(signal.SIGKILL)

    until(lambda: not any(map(command_line, started)), 60, lambda: json.dumps(started, indent=1))
