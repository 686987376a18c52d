"""Daemon and trainer of a real Kafka stream, killed again and again: each record learnt once, and the same bits.

The number of kills is 50 through a ring and 25 without; `FEDMB_KILLS=1000 make soak` raises it.
"""

import multiprocessing
import os
import random
import signal
import statistics
import threading
import time
from functools import partial

import counting
import numpy as np
import pytest
from programs import until

from fedmb.federation import checkpoint

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

KILLS = int(os.environ.get("FEDMB_KILLS", "50"))
RECORDS, PARTITIONS = 40_000, 4

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


@pytest.fixture(scope="module")
def stream(kafka):
    """URL of a topic of 40,000 records of one row each, in four partitions."""
    url = f"kafka://{kafka.address}/numbered-{os.getpid()}?create_partitions={PARTITIONS}&codecs=sample"
    counting.fill(url.replace("&codecs=sample", ""), PARTITIONS, RECORDS)
    return url


def newest(place):
    found = checkpoint.generations(place / "run" / "checkpoints")
    return found[-1][0] if found else 0


class Chase:
    """Processes that are started whenever they are gone, until the trainer has finished."""

    def __init__(self, place, jobs):
        self.place, self.jobs, self.running = place, jobs, {}

    def start_missing(self):
        for name, (target, arguments) in self.jobs.items():
            process = self.running.get(name)
            if process is None or not process.is_alive():
                if self.is_done():  # nothing is missing once the trainer has finished, which it does at its own time
                    return
                assert process is None or process.exitcode == -signal.SIGKILL, f"{name} ended: {process.exitcode}"
                self.running[name] = PROCESSES.Process(target=target, args=arguments)
                self.running[name].start()

    def is_done(self):
        return (self.place / "done").exists()

    def kill(self, name):
        """Whether the signal found the process alive: it may have finished by itself just before."""
        os.kill(self.running[name].pid, signal.SIGKILL)
        self.running[name].join()
        return self.running[name].exitcode == -signal.SIGKILL

    def finish(self):
        self.start_missing()
        until(self.is_done, 300, lambda: f"version {newest(self.place)}")
        for process in self.running.values():
            process.terminate()
            process.join()


def jobs_of(place, stream, way):
    place.mkdir()
    if way == "daemon and ring":
        ring = place / "rows.ring"
        return {"daemon": (counting.pour, (stream, ring)), "trainer": (counting.learn, (ring, place, RECORDS))}
    return {"trainer": (counting.learn, (stream.replace("&codecs=sample", ""), place, RECORDS))}


def has_moved(chase, version):
    return chase.is_done() or newest(chase.place) > version


def learnt_once(place):
    """The final checkpoint's bytes, in which every row counts 1."""
    state = checkpoint.newest(place / "run" / "checkpoints")
    counts = state.arrays["learnt"]
    lost, twice = int(np.sum(counts < 1)), int(np.sum(counts > 1))

    assert (lost, twice) == (0, 0), f"{lost} lost, {twice} learnt twice"
    assert [tuple(position) for position in state.ledger.values()] == [(RECORDS // PARTITIONS, 0)] * PARTITIONS
    return checkpoint.to_bytes(state)


@pytest.mark.parametrize(("way", "kills"), [("daemon and ring", KILLS), ("kafka", max(1, KILLS // 2))])
def test_killed_again_and_again_every_record_is_learnt_once_and_the_bits_are_the_same(
    stream, way, kills, tmp_path, capsys
):
    whole = tmp_path / "whole"
    began = time.monotonic()
    Chase(whole, jobs_of(whole, stream, way)).finish()
    undisturbed = time.monotonic() - began
    reference = learnt_once(whole)
    seed = random.SystemRandom().randrange(1 << 32)
    chance, done, runs, resumed = random.Random(seed), 0, 0, []
    while done < kills:
        runs += 1
        place = tmp_path / f"run-{runs}"
        chase = Chase(place, jobs_of(place, stream, way))
        pause = threading.Event()
        while done < kills and not chase.is_done():
            chase.start_missing()
            began, version = time.monotonic(), newest(place)
            if chance.random() < 0.5:  # half of them amid learning, the others wherever a start has come to
                until(partial(has_moved, chase, version), 60, lambda: "a new version")
                resumed.append(time.monotonic() - began)
            pause.wait(chance.uniform(0.0, 0.5))
            if chase.is_done():
                break
            for name in chance.sample(sorted(chase.jobs), chance.randint(1, len(chase.jobs))):
                done += chase.kill(name)
        chase.finish()

        assert learnt_once(place) == reference, f"seed {seed}"
    with capsys.disabled():
        print(
            f"\n{way}: {done} kills in {runs} runs, seed {seed}; {len(resumed)} resumes, learning again after "
            f"{statistics.median(resumed):.2f} s (median) and {max(resumed):.2f} s (longest) of a start; "
            f"{undisturbed:.1f} s undisturbed"
        )
