from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from kafka_broker import KafkaBroker
from kafka_topics import LONG, fill, make_topic

from fedmb.errors import CorruptLog
from fedmb.exit_codes import ExitCode
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_driver_choice import open_driver
from fedmb.ingest.kafka_watchdog import Watchdog


def spin() -> None:
    while True:
        pass


def test_a_call_that_returns_in_time_gives_its_answer_or_its_error():
    with closing(Watchdog("it", 0.2)) as watchdog:
        assert watchdog.call(lambda: 7, 0.2) == 7
        with pytest.raises(ZeroDivisionError):
            watchdog.call(lambda: 1 // 0, 0.2)
        assert watchdog.stalls == 0


def test_an_endless_loop_is_ended_and_the_next_call_is_a_new_one():
    with closing(Watchdog("the client of t", 0.1)) as watchdog:
        for expected in (1, 2):
            with pytest.raises(TimeoutError, match=r"the client of t must answer within 0\.1 s"):
                watchdog.call(spin, 0.1)
            assert watchdog.stalls == expected
        assert watchdog.call(lambda: 7, 0.1) == 7


def test_what_a_library_catches_does_not_keep_an_endless_loop_alive():
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                spin()

    with closing(Watchdog("it", 0.1)) as watchdog, pytest.raises(TimeoutError):
        watchdog.call(stubborn, 0.1)


def test_calls_that_end_just_when_their_time_is_up_never_leak_the_exception_into_their_caller():
    limit, deadline, outcomes = 0.01, time.monotonic() + 3.0, {True: 0, False: 0}

    def until_due() -> bool:
        due = time.monotonic() + 1.05 * limit
        while time.monotonic() < due:
            pass
        return True

    # A busy machine may keep a thread waiting for longer than so short a limit; that must not end the tests.
    with closing(Watchdog("it", limit, grace_seconds=LONG)) as watchdog:
        while time.monotonic() < deadline:
            try:
                answered = watchdog.call(until_due, limit)
            except TimeoutError:
                answered = False
            outcomes[answered] += 1
            sum(range(200))  # the caller's own work, where a late exception would strike
    print(outcomes)

    assert outcomes[False] == watchdog.stalls
    assert min(outcomes.values()) > 0  # both were met


def test_a_call_in_another_thread_is_ended_in_that_thread():
    caught = []

    def run() -> None:
        try:
            watchdog.call(spin, 0.1)
        except TimeoutError:
            caught.append(threading.get_ident())

    with closing(Watchdog("it", 0.1)) as watchdog:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(LONG)

    assert caught == [thread.ident]


def test_a_call_that_nothing_ends_ends_the_process_with_a_named_code_and_its_stack():
    program = (
        "import threading\n"
        "from fedmb.ingest.kafka_watchdog import Watchdog\n"
        "def inside_the_library(): lock = threading.Lock(); lock.acquire(); lock.acquire()\n"
        "Watchdog('it', 0.2).call(inside_the_library, 0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False)

    assert done.returncode == ExitCode.STALLED
    assert "inside_the_library" in done.stderr


def test_kafka_pythons_endless_loop_after_a_corrupt_batch_is_ended(topic):
    with KafkaBroker() as broker:
        make_topic(broker.address, topic)
        fill(broker.address, topic, [b"damaged soon"] * 20)
        (segment,) = (broker.data / f"{topic}-0").glob("*.log")
        content = bytearray(segment.read_bytes())
        content[content.index(b"damaged")] ^= 1
        segment.write_bytes(content)
        connection = KafkaConnection(servers=(broker.address,))
        driver = open_driver("here", topic, connection)
        driver.assign({0: 0})
        with closing(Watchdog("kafka-python", 1.0)) as watchdog:
            with pytest.raises(CorruptLog):
                watchdog.call(lambda: [driver.fetch(0.2, 9) for _ in range(99)], LONG)

            with pytest.raises(TimeoutError):  # what no reader does: fetching again
                watchdog.call(lambda: driver.fetch(0.2, 9), 1.0)
            assert watchdog.stalls == 1
        driver.close()
