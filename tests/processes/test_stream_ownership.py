"""What has one owner refuses the second by name, between real processes: rings, partitions, clients' names."""

import os
import subprocess
import sys
from contextlib import closing, suppress

import numpy as np
from counting import BATCH, RATE, STEPS, Counting
from poured_stream import PouredStream
from programs import PATIENT, ROOT, Program, until

from fedmb.batch.table import TableSource
from fedmb.errors import AlreadyOwned
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ingest.stream_url import open_log
from fedmb.simulation.grid import InProcessGrid
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.sizing_section import Sizing
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.local_update import LocalUpdate
from fedmb.training.recipe import Training


def test_a_second_daemon_on_a_ring_is_refused_and_the_first_pours_on(tmp_path):
    stream = PouredStream(tmp_path)
    stream.fill(100)
    with stream.daemon("first") as first:
        until(stream.is_all_there, 60, lambda: first.log)
        with stream.daemon("second") as second:
            assert second.ended() == ExitCode.OWNED
        stream.fill(100)
        until(stream.is_all_there, 60, lambda: first.log)

    assert f"error: a ring's file must have one owner, {stream.ring} is in use\n" in second.log
    assert f"hint: process {first.process.pid} has it\n" in second.log
    assert stream.rows() == list(range(200))


READER = """
import sys
from poured_stream import SCHEMA
from fedmb.errors import AlreadyOwned
from fedmb.replay.ring_source import RingSource
try:
    source = RingSource(sys.argv[1], SCHEMA, linger_seconds=0.0)
except AlreadyOwned as error:
    sys.exit(f"{error}, {error.__notes__[0]}")
print(source.take(10**6).columns["id"].tolist(), flush=True)
sys.stdin.read()
"""


def reader_of(ring):
    """A process that takes the rows of a ring, says which they are, and holds it until its input ends."""
    path = ":".join([str(ROOT), str(ROOT / "tests" / "processes")])
    command = [sys.executable, "-c", READER, ring]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env={"PYTHONPATH": path}, text=True, **pipes)


def test_a_second_reader_of_a_ring_is_refused_until_the_first_has_gone(tmp_path):
    stream = PouredStream(tmp_path)
    stream.fill(100)
    with stream.daemon() as running, reader_of(stream.ring) as first:
        assert first.stdout.readline() == f"{list(range(100))}\n"
        with reader_of(stream.ring) as second:
            _, said = second.communicate()
        first.kill()
        first.wait()
        with reader_of(stream.ring) as third:
            found = third.stdout.readline()
            third.communicate()
        assert running.process.poll() is None

    assert said.startswith(f"a ring must have one reader of fresh rows, {stream.ring} has one already; ")
    assert said.endswith(f"process {first.pid} has it\n")
    assert found == f"{list(range(100))}\n"


def feed(place, url):
    return Program(place, "feed", "stream", "feed", url, "--rows-per-second", "inf", "--records", 3000)


def test_a_second_writer_of_a_files_partition_is_refused_with_the_firsts_process(tmp_path):
    url = f"file:{tmp_path}/log?topic=rows"
    log = open_log(url)
    with closing(log.writer("rows", 0)), feed(tmp_path, url) as second:
        assert second.ended() == ExitCode.OWNED

    assert f"process {os.getpid()} writes {log.id}/rows[0] and holds {tmp_path}/log/rows/0/owner.lock" in second.log
    assert "hint: stop it, or write to another partition" in second.log


def test_of_two_writers_of_a_brokers_partition_one_is_refused_at_least(kafka, topic, tmp_path):
    url = f"kafka://{kafka.address}/{topic}"
    log, refused = open_log(url), ""
    own = log.writer(topic, 0)
    with feed(tmp_path, url) as other:
        try:
            while other.process.poll() is None:
                own.append(b"ours")
                own.flush()
        except AlreadyOwned as error:
            refused = f"{error}\n"
        code = other.ended()
    with suppress(AlreadyOwned):
        own.close()

    assert code == ExitCode.OWNED or (code == ExitCode.OK and refused)
    if code == ExitCode.OWNED:
        refused += other.log
    assert f"another producer writes {log.id}/{topic}[0]: our record for offset " in refused
    assert "write to another partition\n" in refused


def test_of_two_clients_with_one_name_one_counts_in_each_round_and_the_other_is_named(tmp_path, caplog):
    training = Training(steps=STEPS, sizing=Sizing(size=BATCH), learning_rate=LearningRate(rate=RATE))
    rows, task = BATCH * STEPS, Counting(2 * BATCH * STEPS)

    def site(first):
        table = {"number": np.arange(first, first + rows), "x": np.zeros((rows, 4), np.float32)}
        return LocalUpdate(task, TableSource(table, seed=0, client="a"), training, client="a", seed=0)

    sites = [site(0), site(rows)]
    app = client_app(lambda context: sites[context.node_config["site"]])
    grid = InProcessGrid(app, {2: {"site": 0}, 3: {"site": 1}})
    run = RunDirectory.create(tmp_path / "run", config="", seed=0)
    state = Server(task, Rounds(count=2, min_clients=2), MiniBatchFedAvg(), run, seed=0, training=training).train(grid)
    run.close()

    said = [record.getMessage() for record in caplog.records if "a client counts once" in record.getMessage()]
    assert [line.partition(" reason=")[0] for line in said] == [
        f"update rejected round={number} client=node 3" for number in (1, 2)
    ]
    assert all(
        "'a' answers from node 2, got it from node 3 too; give every client a name of its own" in line for line in said
    )
    assert state.arrays["learnt"].sum() == 2 * rows


def test_of_two_clients_on_a_brokers_partition_one_learns_and_the_other_hears_whose_it_is(kafka, topic, tmp_path):
    url = f"kafka://{kafka.address}/{topic}"
    with feed(tmp_path, url) as one:
        assert one.ended() == ExitCode.OK
    log, train = open_log(url), ["--set", "training.steps=5"]
    options = ["--rounds", 2, "--min-clients", 2, "--run-dir", "run", "--port", 0, *train, *PATIENT]
    with Program(tmp_path, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        told = ["--server", address, "--source", url]
        with (
            Program(tmp_path, "a", "client", "--name", "a", *told),
            Program(tmp_path, "b", "client", "--name", "b", *told),
        ):
            assert server.ended() == ExitCode.OK, server.log
    state = checkpoint.newest(tmp_path / "run" / "checkpoints")

    (owner,) = state.positions
    other = "b" if owner == "a" else "a"
    said = f"a partition must have one owner, {log.id}/{topic}[0] is learnt by '{owner}', got rows of it from '{other}'"
    assert server.log.count(said) >= 2
    assert f"give '{other}' a partition of its own, or let a group= deal them out" in server.log
    assert sum(rows["stream"] for rows in state.learnt.values()) == sum(
        8 * p.offset + p.row for p in state.ledger.values()
    )
