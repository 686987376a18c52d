import itertools
import math
import select
import signal
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.producer import Feeder, TokenBucket
from fedmb.ingest.stream_url import open_log

CODEC = PackedCodec({"n": Column("int64")})
PROCESS = """
import sys, threading
import numpy as np
from fedmb.batch.minibatch import Column
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.producer import Feeder
from fedmb.ingest.stream_url import open_log
log = open_log(sys.argv[1])
def records(offset):
    print(offset, flush=True)
    return {"n": np.arange(offset * 10, offset * 10 + 1 + offset % 4)}
Feeder(log, "t", records=records, codec=PackedCodec({"n": Column("int64")}), max_records=3000).run(threading.Event())
"""


class Ticking:
    """A stop event under whose waits a clock runs, instead of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self.now += timeout
        return False


def records(offset: int) -> dict[str, np.ndarray]:
    return {"n": np.arange(offset * 10, offset * 10 + 1 + offset % 4)}


def values(log, count: int) -> list[bytes]:
    with closing(log.reader("t", [0])) as reader:
        found = []
        while len(found) < count:
            found += [(bytes(record.value), dict(record.headers)) for record in reader.poll(20.0)]
        return found


def test_content_is_a_function_of_the_offset_however_often_it_is_restarted():
    whole, parted = MemoryLog(), MemoryLog()
    counts = [
        Feeder(log, "t", records=records, codec=CODEC, max_records=end).run(threading.Event())
        for log, end in ((whole, 50), (parted, 7), (parted, 7), (parted, 30), (parted, 50))
    ]

    assert counts == [50, 7, 0, 23, 20]
    assert values(whole, 50) == values(parted, 50)
    assert values(whole, 50)[3] == (CODEC.encode(records(3)), codec_headers(CODEC))


def kill_feeders(url: str, goals: tuple[float, ...]) -> int:
    """Start a feeder for each goal, and kill it once it has made so many records; answers how many were killed."""
    kills = 0
    for goal in goals:
        process = subprocess.Popen([sys.executable, "-c", PROCESS, url], stdout=subprocess.PIPE)
        while select.select([process.stdout], [], [], 20.0)[0] and (line := process.stdout.readline()):
            if int(line) >= goal:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.wait()
        process.stdout.close()
    return kills


def whole() -> list[tuple[bytes, dict[str, bytes]]]:
    log = MemoryLog()
    Feeder(log, "t", records=records, codec=CODEC, max_records=3000).run(threading.Event())
    return values(log, 3000)


def test_a_killed_feeder_goes_on_as_if_it_had_not_stopped(tmp_path):
    url = f"file:{tmp_path}?topic=t"

    assert kill_feeders(url, (100, 800, 1500, math.inf)) == 3
    assert values(open_log(url), 3000) == whole()


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
def test_a_killed_feeder_of_a_broker_goes_on_as_if_it_had_not_stopped(own_kafka, driver):
    url = f"kafka://{own_kafka.address}/t?driver={driver}"

    assert kill_feeders(url, (100, 800, 801, 1500, math.inf)) == 4
    assert values(open_log(url), 3000) == whole()


def test_a_feeder_stops_when_told_and_gives_up_the_partition():
    log, stop = MemoryLog(), threading.Event()

    def telling(offset: int):
        if offset == 20:
            stop.set()
        return records(offset)

    assert Feeder(log, "t", records=telling, codec=CODEC).run(stop) == 21
    log.writer("t", 0).close()


def test_a_feeder_that_waits_for_its_pace_stops_at_once():
    log, stop = MemoryLog(), threading.Event()
    feeder = Feeder(log, "t", records=records, codec=CODEC, rows_per_second=1e-6)
    thread = threading.Thread(target=feeder.run, args=(stop,))
    thread.start()
    with closing(log.reader("t", [0])) as reader:
        assert len(reader.poll(20.0)) == 1
    stop.set()
    thread.join(10.0)

    assert not thread.is_alive()


def test_a_feeder_stays_a_lead_ahead_of_its_reader():
    log, stop, ends, used = MemoryLog(), threading.Event(), [], itertools.count()
    consumed = [0]

    def reading() -> int:
        ends.append(next(iter(reader.end_offsets().values())) - consumed[0])
        if next(used) % 3 == 2:
            consumed[0] += 1
        return consumed[0]

    with closing(log.reader("t", [0])) as reader:
        Feeder(log, "t", records=records, codec=CODEC, max_records=20, lead_records=4, consumed=reading).run(stop)

    assert max(ends) == 4


def test_a_partition_that_is_written_already_is_refused():
    log = MemoryLog()
    with closing(log.writer("t", 0)), pytest.raises(AlreadyOwned):
        Feeder(log, "t", records=records, codec=CODEC).run(threading.Event())


def test_rows_come_at_their_rate():
    ticking = Ticking()
    bucket = TokenBucket(100.0, ticking.clock)
    for _ in range(50):
        while wait := bucket.wait_seconds():
            ticking.wait(wait)
        bucket.spend(7)

    assert ticking.now == pytest.approx(49 * 0.07)


def test_a_delay_is_made_up_for_by_one_second_of_rows_at_most():
    ticking = Ticking()
    bucket = TokenBucket(64.0, ticking.clock)
    ticking.now = 60.0
    sent = 0
    while not bucket.wait_seconds():
        bucket.spend(8)
        sent += 8

    assert sent == 64 + 8  # the last eight when the credit has just run out


def test_an_endless_rate_never_waits():
    bucket = TokenBucket(math.inf, Ticking().clock)
    bucket.spend(10**9)

    assert bucket.wait_seconds() == 0.0


@pytest.mark.parametrize("key", ["rows_per_second", "max_records", "lead_records"])
@pytest.mark.parametrize("number", [0, -1, math.nan])
def test_numbers_are_positive(key, number):
    with pytest.raises(SettingsError, match=key):
        Feeder(MemoryLog(), "t", records=records, codec=CODEC, consumed=int, **{key: number})


def test_a_lead_needs_a_reader_to_measure_it_against():
    with pytest.raises(SettingsError, match="pass consumed"):
        Feeder(MemoryLog(), "t", records=records, codec=CODEC, lead_records=3)
