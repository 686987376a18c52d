"""A producer ten times as fast as the trainers: daemons of both drivers wait, take no more memory and drop nothing.

It takes 20 s; FEDMB_FLOOD_SECONDS=60 is `make soak`'s, and from there on the memory's slope is judged too.
"""

import multiprocessing
import os
import statistics
import threading
import time
from contextlib import ExitStack, closing

import counting
import numpy as np
import pytest
from programs import until
from stream_daemon import daemon, figures, resident_bytes, rows_kept

from fedmb.federation import checkpoint
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.stream_url import open_log
from fedmb.replay.ring_source import RingSource

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

DRIVERS = ("kafka-python", "confluent")
SECONDS = float(os.environ.get("FEDMB_FLOOD_SECONDS", "20"))
LONG_SECONDS = 60.0
ROWS_PER_SECOND, TIMES = 4_000, 10
CYCLE = 16_000  # numbers of rows, which come again and again
CYCLES = max(1, round(SECONDS * ROWS_PER_SECOND / CYCLE))
RECORD_ROWS, TICK_RECORDS = 64, 25
RING_BYTES, FETCH_BYTES = 4 << 20, 1 << 20
CONFIGURED = RING_BYTES + 2 * FETCH_BYTES  # a reader queues so much, and its library as much again
SLACK = 1.1
MAX_SLOPE = 1 << 20  # bytes a minute

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fedmb.simulation.run", "fedmb.telemetry.sinks"])


CODEC = PackedCodec(counting.SCHEMA)


def cycle():
    """Records of one cycle's rows."""
    values = []
    for first in range(0, CYCLE, RECORD_ROWS):
        numbers = np.arange(first, first + RECORD_ROWS)
        x = np.sin(np.multiply.outer(numbers, [1.0, 2.0, 3.0, 4.0])).astype(np.float32)
        values.append(CODEC.encode({"number": numbers, "x": x}))
    return values


def flood(url, is_over):
    """Write rows of endless cycles, ten times as many a second as a trainer learns."""
    values, due, at = cycle(), time.monotonic(), 0
    with closing(open_log(url).writer(url.rpartition("/")[2], 0)) as writer:
        while not is_over.wait(max(0.0, due - time.monotonic())):
            writer.append_many(values[at : at + TICK_RECORDS], codec_headers(CODEC))
            at = (at + TICK_RECORDS) % len(values)
            due += TICK_RECORDS * RECORD_ROWS / (ROWS_PER_SECOND * TIMES)


class PacedRing(RingSource):
    """A ring whose reader takes as long for a batch as one with a larger model does."""

    due = 0.0

    def take(self, size):
        time.sleep(max(0.0, self.due - time.monotonic()))
        self.due = max(self.due, time.monotonic() - 1.0) + size / ROWS_PER_SECOND
        return super().take(size)


def learn_at_its_pace(ring, place, rows):
    task = counting.Counting
    counting.Counting, counting.RingSource = lambda _rows: task(CYCLE), PacedRing
    counting.learn(ring, place, rows)


def slope(samples):
    """Bytes a minute, whatever single samples say: the median over pairs of Theil and Sen."""
    pairs = zip(samples[: len(samples) // 2], samples[len(samples) // 2 :], strict=False)
    return statistics.median(60 * (later - early) / (end - begin) for (begin, early), (end, later) in pairs)


def test_a_flood_is_held_back_and_takes_no_memory(kafka, topic, tmp_path, capsys):
    url, is_over = f"kafka://{kafka.address}/{topic}", PROCESSES.Event()
    producer = PROCESSES.Process(target=flood, args=(url, is_over))
    with closing(open_log(url).writer(topic, 0)) as writer:
        writer.append_many(cycle(), codec_headers(CODEC))
    with ExitStack() as stack:
        daemons, trainers, base, samples = {}, {}, {}, {name: [] for name in DRIVERS}
        for name in DRIVERS:
            place, source = tmp_path / name, f"{url}?codecs=packed&driver={name}&fetch_bytes={FETCH_BYTES}"
            ring = place / "rows.ring"
            daemons[name] = stack.enter_context(
                daemon(place, source, ring, f"max_bytes={RING_BYTES}", "commit_rows=512")
            )
            until(lambda name=name: rows_kept(daemons[name]) == CYCLE, 60, lambda name=name: daemons[name].log)
            base[name] = resident_bytes(daemons[name].process.pid)
        producer.start()
        stack.callback(producer.join)
        stack.callback(is_over.set)
        for name in DRIVERS:
            trainers[name] = PROCESSES.Process(
                target=learn_at_its_pace, args=(tmp_path / name / "rows.ring", tmp_path / name, CYCLES * CYCLE)
            )
            trainers[name].start()
            stack.callback(trainers[name].join)
            stack.callback(trainers[name].kill)
        nap = threading.Event()
        while any(one.is_alive() for one in trainers.values()):
            for name, running in daemons.items():
                assert running.process.poll() is None, running.log
                samples[name].append((time.monotonic(), resident_bytes(running.process.pid)))
            nap.wait(0.1)
        found = {name: figures(running) for name, running in daemons.items()}

    for name in DRIVERS:
        peak = max(size for _, size in samples[name])
        grown = slope(samples[name][len(samples[name]) // 4 :])
        counts = checkpoint.newest(tmp_path / name / "run" / "checkpoints").arrays["learnt"]
        slope_text = f"slope {grown / 2**20:+.2f} MiB/min, " if SECONDS >= LONG_SECONDS else ""
        with capsys.disabled():
            print(
                f"\n{name}: base {base[name] / 2**20:.1f} MiB, peak {peak / 2**20:.1f} of at most "
                f"{SLACK * (base[name] + CONFIGURED) / 2**20:.1f}, {slope_text}"
                f"{found[name]['fedmb_stream_stalls_total']:.0f} stalls, "
                f"{found[name]['fedmb_stream_lag_records'] * RECORD_ROWS:,.0f} rows behind"
            )
        assert peak <= SLACK * (base[name] + CONFIGURED), name
        assert SECONDS < LONG_SECONDS or grown <= MAX_SLOPE, name
        assert found[name]["fedmb_stream_stalls_total"] > 0
        assert found[name]["fedmb_stream_lag_records"] > 0
        assert found[name]["fedmb_ring_dropped_rows_total"] == 0
        assert trainers[name].exitcode == 0
        assert (counts == CYCLES).all(), f"{name}: {np.unique(counts, return_counts=True)}"
