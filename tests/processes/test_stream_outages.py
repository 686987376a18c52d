"""Daemons of both drivers pour a topic while its broker dies, freezes and is cut off: each row is learnt once.

The freeze takes 30 s, longer than a request may, and there are 100 cuts (FEDMB_FREEZE_SECONDS, FEDMB_CUTS).
"""

import math
import multiprocessing
import os
import random
import signal
import threading
import time
from contextlib import ExitStack

import counting
import numpy as np
import pytest
from kafka_broker import KafkaBroker, free_port
from programs import until
from stream_daemon import daemon, figures, rows_kept
from tcp_proxy import TcpProxy

from fedmb.federation import checkpoint
from fedmb.replay.ring_source import RingSource

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

DRIVERS = ("kafka-python", "confluent")
FREEZE_SECONDS = float(os.environ.get("FEDMB_FREEZE_SECONDS", "30"))
CUTS = int(os.environ.get("FEDMB_CUTS", "100"))
RECORDS, PARTITIONS = 40_000 * math.ceil(max(CUTS, 100) / 100), 4  # so that rows flow all the time
STEP_SECONDS = 0.012  # of the trainer while the broker dies and freezes: it takes up what there is in half a second
CUT_SECONDS = 0.6  # that the pour should last for each cut
CUT_STEP_SECONDS = CUTS * CUT_SECONDS / (RECORDS / 2 / counting.BATCH)  # of the trainer meanwhile
PATIENCE = FREEZE_SECONDS + counting.PATIENCE  # of a trainer: a short batch would count as rows learnt more than once
BACK_SECONDS = 10.0  # for rows to flow again; it takes a fifth of that
# A daemon holds little beyond its ring, so that the other rows have to come from the broker after the outage.
SMALL = {"message.max.bytes": "16384"}
FETCH = "fetch_bytes=16384"
HELD = 1500  # rows, at most: two times so many bytes of each partition

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


@pytest.fixture(scope="module")
def broker():
    """A broker that clients reach through `broker.proxy` alone, with a topic of 40,000 rows, or more for more cuts."""
    port = free_port()
    with TcpProxy(port) as proxy, KafkaBroker(port=port, advertised=proxy.address, settings=SMALL) as running:
        running.proxy = proxy
        counting.fill(f"kafka://{proxy.address}/numbered?create_partitions={PARTITIONS}", PARTITIONS, RECORDS)
        yield running


class SlowRing(RingSource):
    """A ring whose reader takes its time for each batch, as one with a larger model does."""

    step_seconds = None

    def take(self, size):
        time.sleep(self.step_seconds.value)
        return super().take(size)


def learn_slowly(ring, place, rows, step_seconds, patience):
    counting.PATIENCE = patience
    SlowRing.step_seconds = step_seconds
    counting.RingSource = SlowRing
    counting.learn(ring, place, rows)


class Pour:
    """A daemon with one driver, and a trainer behind its ring."""

    def __init__(self, place, broker, driver):
        url = f"kafka://{broker.proxy.address}/numbered?codecs=sample&driver={driver}&{FETCH}"
        ring = place / "rows.ring"
        self.place, self.driver = place, driver
        self.last_rows, self.last_at = -1.0, 0.0
        self.step_seconds = PROCESSES.Value("d", STEP_SECONDS)
        self.daemon = daemon(place, url, ring, f"max_bytes={counting.RING_BYTES}", "flush_seconds=0.2")
        self.trainer = PROCESSES.Process(target=learn_slowly, args=(ring, place, RECORDS, self.step_seconds, PATIENCE))
        self.trainer.start()

    def rows(self):
        return rows_kept(self.daemon)

    def has_run_dry(self):
        """Whether no row has come for a while, and the trainer has taken all that there are."""
        found, now = figures(self.daemon), time.monotonic()
        if found["fedmb_stream_rows_total"] != self.last_rows:
            self.last_rows, self.last_at = found["fedmb_stream_rows_total"], now
        # Of a round that waits for its next batch, the batches before are in no stored model yet.
        return now - self.last_at > 0.5 and found["fedmb_ring_unread_rows"] < counting.BATCH * counting.STEPS

    def flows_beyond(self, rows, seconds=BACK_SECONDS):
        """Seconds until more rows than these have come."""
        began = time.monotonic()
        until(lambda: self.rows() > rows, seconds, lambda: f"{self.driver}: {figures(self.daemon)} {self.daemon.log}")
        return time.monotonic() - began

    def learnt(self):
        """How many rows were lost and how many learnt twice, once the trainer has them all."""
        until(
            lambda: not self.trainer.is_alive(),
            300 * RECORDS / 40_000,
            lambda: f"{self.driver}: {figures(self.daemon)}",
        )
        assert self.trainer.exitcode == 0, self.driver
        counts = checkpoint.newest(self.place / "run" / "checkpoints").arrays["learnt"]
        return int(np.sum(counts < 1)), int(np.sum(counts > 1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.daemon.__exit__()
        self.trainer.kill()
        self.trainer.join()


def pours(stack, place, broker):
    """One for each driver, both under way."""
    running = [stack.enter_context(Pour(place / driver, broker, driver)) for driver in DRIVERS]
    for pour in running:
        pour.flows_beyond(2 * counting.BATCH * counting.STEPS, 60)
    return running


def back(running, counts):
    """Seconds until rows flow again, by driver."""
    began = time.monotonic()
    for pour, rows in zip(running, counts, strict=True):
        assert rows + HELD < RECORDS, "the outage came too late to interrupt anything"
        pour.flows_beyond(rows + HELD)
        pour.seconds = time.monotonic() - began
    return ", ".join(f"{pour.driver} {pour.seconds:.2f} s" for pour in running)


def check_learnt_once(running):
    for pour in running:
        pour.step_seconds.value = 0.0  # nothing more is to be interrupted
    for pour in running:
        assert pour.learnt() == (0, 0), f"{pour.driver}: lost, learnt twice"
        assert pour.daemon.process.poll() is None, f"{pour.driver}: {pour.daemon.log}"
        pour.daemon.send(signal.SIGTERM)
    for pour in running:
        assert pour.daemon.ended() == 0, pour.daemon.log


def dried_up(running):
    """Their rows, once they have poured what they had; a reader may hold some back while it waits for an answer."""
    until(lambda: all(pour.has_run_dry() for pour in running), 60, lambda: "everything that the daemons held")
    return [pour.rows() for pour in running]


def cut_again_and_again(broker, running, chance):
    """Cut every connection; answers how many there were, and the longest time that rows took to flow again."""
    nap, longest, before = threading.Event(), dict.fromkeys(DRIVERS, 0.0), broker.proxy.cuts
    for pour in running:
        pour.step_seconds.value = CUT_STEP_SECONDS
    for _ in range(CUTS):
        broker.proxy.cut()
        if chance.random() < 0.5:  # the others fall upon whatever a connection has come to
            for pour in running:
                longest[pour.driver] = max(longest[pour.driver], pour.flows_beyond(pour.rows()))
        nap.wait(chance.uniform(0.0, CUT_SECONDS / 4))
    assert all(pour.rows() < RECORDS for pour in running), "cuts came too late to interrupt anything"
    return broker.proxy.cuts - before, ", ".join(f"{driver} {seconds:.2f} s" for driver, seconds in longest.items())


def test_a_broker_that_is_killed_frozen_and_cut_off_costs_and_doubles_no_row(broker, tmp_path, capsys):
    seed = random.SystemRandom().randrange(1 << 32)
    with ExitStack() as stack:
        running = pours(stack, tmp_path, broker)
        broker.kill()
        rows = dried_up(running)
        broker.start()
        killed = back(running, rows)
        broker.freeze()
        threading.Event().wait(FREEZE_SECONDS)
        rows = dried_up(running)
        broker.thaw()
        frozen = back(running, rows)
        connections, longest = cut_again_and_again(broker, running, random.Random(seed))

        check_learnt_once(running)
    with capsys.disabled():
        print(f"\nbroker killed: rows again after {killed}")
        print(f"broker frozen for {FREEZE_SECONDS:.0f} s: rows again after {frozen}")
        print(f"{CUTS} cuts of {connections} connections (seed {seed}): rows again after at most {longest}")
        print("0 lost, 0 learnt twice, and the daemons' processes are those of the beginning")
