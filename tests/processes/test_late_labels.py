"""Questions and late answers on two topics of a real broker: each answer learnt once, whoever is killed when."""

import multiprocessing
import random
import signal
import threading
from contextlib import closing
from functools import partial

import late_counting
import numpy as np
import pytest
from late_counting import ANSWERED, ASKED, ROUNDS, answered_numbers
from programs import PATIENT, Program, until

from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.label_source import Labels
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.codec_choice import CodecChoice
from fedmb.ingest.stream_url import open_log
from fedmb.tasks.digits import Digits
from fedmb.telemetry.sinks import read_lines

KILLS = 6

pytestmark = pytest.mark.timeout(900)  # idle: a minute; other work on the machine multiplies it

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


def version_of(place):
    found = checkpoint.generations(place / "run" / "checkpoints")
    return found[-1][0] if found else 0


def has_moved(process, place, version):
    return version_of(place) > version or not process.is_alive()


def killed_until_done(place, urls, chance, kills):
    """Kill whoever learns in `place` at random moments, at most `kills` times, then let it end; how often it was."""
    place.mkdir()
    pause, done = threading.Event(), 0
    while not (place / "done").exists():
        process = PROCESSES.Process(target=late_counting.learn, args=(*urls, place))
        process.start()
        if done < kills:
            if chance.random() < 0.7:  # amid learning, the others wherever a start has come to
                until(partial(has_moved, process, place, version_of(place)), 60, lambda: "a new version")
            pause.wait(chance.uniform(0.0, 0.3))
            process.kill()
        process.join(300)
        assert process.exitcode in {0, -signal.SIGKILL}
        done += process.exitcode != 0
    return done


def test_killed_anywhere_each_answer_is_learnt_once_and_scored_with_what_was_said_before(
    kafka, topic, tmp_path, capsys
):
    asked, answered = (f"kafka://{kafka.address}/{topic}-{name}" for name in ("asked", "answered"))
    late_counting.fill(asked, f"{answered}?create_partitions=2")
    killed_until_done(tmp_path / "whole", (asked, answered), random.Random(0), 0)
    whole = checkpoint.newest(tmp_path / "whole" / "run" / "checkpoints")
    seed, kills, runs = random.SystemRandom().randrange(1 << 32), 0, 0
    chance = random.Random(seed)
    while kills < KILLS:
        runs += 1
        place = tmp_path / f"run-{runs}"
        kills += killed_until_done(place, (asked, answered), chance, KILLS - kills)
        found = checkpoint.newest(place / "run" / "checkpoints")

        assert checkpoint.to_bytes(found) == checkpoint.to_bytes(whole), f"seed {seed}"
    figures = [entry["monitor"] for _, entry in read_lines(tmp_path / "whole" / "run" / "metrics.jsonl")]
    expected = np.zeros(ASKED)
    expected[answered_numbers()] = 1

    assert np.array_equal(whole.arrays["learnt"], expected)
    assert sum(position.offset for one, position in whole.ledger.items() if "answered" in one.topic) == ANSWERED
    assert whole.version == len(figures) == ROUNDS
    # Said before they were learnt, rows lie further off than when they are about to be.
    assert all(one["delayed_prequential_distance"] > one["prequential_distance"] for one in figures[2:])
    assert figures[-1]["labels_orphaned"] == 0
    with capsys.disabled():
        print(f"\nlate labels: {kills} kills in {runs} runs, seed {seed}: all bit-identical to the undisturbed one")


def test_a_users_client_learns_from_two_topics_and_the_servers_metrics_say_what_was_said_before(kafka, topic, tmp_path):
    asked, answered = (f"kafka://{kafka.address}/{topic}-{name}" for name in ("asked", "answered"))
    rows, keys = Digits().train_rows(), np.arange(640) + (1 << 40)
    schemas = Labels(source=answered, key="id").schemas(Digits())
    questions, answers = {"id": keys, "image": rows["image"][:640]}, {"id": keys[::-1], "label": rows["label"][639::-1]}
    for url, schema, columns in zip((asked, answered), schemas, (questions, answers), strict=True):
        codec = CodecChoice().for_schema(schema)[0]
        with closing(open_log(url).writer(url.rpartition("/")[2], 0)) as writer:
            for start in range(0, 640, 64):
                part = {name: array[start : start + 64] for name, array in columns.items()}
                writer.append(codec.encode(part), codec_headers(codec))
    options = [
        "--rounds",
        2,
        "--min-clients",
        1,
        "--run-dir",
        "run",
        "--port",
        0,
        "--set",
        "training.steps=5",
        *PATIENT,
    ]
    with Program(tmp_path, "server", "server", *options) as server:
        address = server.logged("server listening address=").split()[0]
        labels = [f"labels.source={answered}", "labels.key=id", "labels.horizon_rows=2000"]
        told = [word for setting in labels for word in ("--set", setting)]
        with Program(tmp_path, "ward", "client", "--server", address, "--name", "ward", "--source", asked, *told):
            assert server.ended() == ExitCode.OK, server.log
    entries = [entry for _, entry in read_lines(tmp_path / "run" / "metrics.jsonl")]
    state = checkpoint.newest(tmp_path / "run" / "checkpoints")

    assert sum(entry["rows"]["stream"] for entry in entries) > 0
    assert sorted(one.topic for one in state.ledger) == [f"{topic}-answered", f"{topic}-asked"]
    assert entries[-1]["monitor"]["labels_waiting"] > 0
    assert 0 <= entries[-1]["monitor"]["delayed_prequential_accuracy"] < 1
