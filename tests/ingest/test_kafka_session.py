from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from kafka_broker import KafkaBroker, free_port
from kafka_identities import guarded_broker
from kafka_topics import DRIVERS, LONG, collected, fill_numbered, reader, wait_until

from fedmb.errors import AccessDenied, SettingsError
from fedmb.ingest import kafka_session
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_session import KafkaSession, close_driver

NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("identities")
    with guarded_broker(directory) as broker:
        broker.password = directory / "password"
        broker.password.write_text("correct horse")
        yield broker


class Opener:
    """Makes drivers as told: a driver, or the error to raise."""

    def __init__(self, *outcomes) -> None:
        self.outcomes = list(outcomes)
        self.connections = []

    def __call__(self, log_id, topic, connection, *, is_member):
        self.connections.append(connection)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class ClosedLate:
    """A driver whose `close` waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.is_closed = False

    def close(self) -> None:
        self.let_go.wait(LONG)
        self.is_closed = True


def test_pauses_between_attempts_double_up_to_two_seconds_and_start_again_after_success():
    drivers = [ClosedLate() for _ in range(8)]
    for driver in drivers:
        driver.let_go.set()
    opener, pauses = Opener(*drivers), []
    with closing(KafkaSession("here", "t", KafkaConnection(servers=(NOBODY,)), opener=opener)) as session:
        for is_success in (False,) * 6 + (True, False):
            session._opens_at = 0.0  # the pause is over
            assert session.opened() is not None
            if is_success:
                session.worked()
            session.fail(RuntimeError("lost"))
            pauses.append(round(session.pause_seconds, 1))

        assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.2, 0.4]
        assert session.opened() is None  # the pause is not over
        assert session.reconnects == 8
        assert all(driver.is_closed for driver in drivers)
    # The first may take all its time; while records wait, a poll must not hang for so long.
    assert [connection.connect_seconds for connection in opener.connections] == [10.0] + [2.0] * 7


def test_a_driver_that_does_not_close_holds_up_nobody_for_long(monkeypatch):
    monkeypatch.setattr(kafka_session, "CLOSE_SECONDS", 0.1)
    driver = ClosedLate()
    started = time.monotonic()
    close_driver(driver)

    assert time.monotonic() - started < LONG / 2
    driver.let_go.set()
    wait_until(lambda: driver.is_closed)


@pytest.mark.parametrize("driver", DRIVERS)
def test_attempts_that_fail_leave_no_thread_behind(driver):
    connection = KafkaConnection(servers=(NOBODY,), driver=driver, connect_seconds=0.1)
    with closing(KafkaSession("here", "t", connection)) as session:
        assert session.opened() is None
        before = threading.active_count()
        for _ in range(4):
            session._opens_at = 0.0
            assert session.opened() is None

        wait_until(lambda: threading.active_count() <= before)
        assert "nothing listens there" in str(session.cause)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_reader_opened_before_its_broker_starts_reads_as_soon_as_it_is_there(topic, driver):
    port = free_port()
    with closing(reader(f"127.0.0.1:{port}", topic, [0], driver=driver, connect_seconds=0.5)) as source:
        assert source.poll(0.0) == []
        with KafkaBroker(port=port) as broker:
            fill_numbered(broker.address, topic, partitions=1, count=5)

            assert len(collected(source, 5)) == 5


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_wrong_password_is_said_and_not_tried_for_ever(guarded, topic, tmp_path, driver):
    wrong = tmp_path / "password"
    wrong.write_text("incorrect donkey")
    options = {"sasl": "PLAIN", "user": "bob", "password_file": str(wrong), "connect_seconds": 2.0}
    address = f"127.0.0.1:{guarded.ports['USER']}"
    with closing(reader(address, topic, [0], driver=driver, **options)) as source:
        with pytest.raises(AccessDenied, match="user=bob"):
            source.poll(LONG)
        with pytest.raises(AccessDenied, match="user=bob"):
            source.end_offsets()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_topic_that_we_may_not_read_is_said_and_not_tried_for_ever(guarded, topic, driver):
    fill_numbered(guarded.address, topic, partitions=1, count=3)
    options = {"sasl": "SCRAM-SHA-512", "password_file": str(guarded.password)}
    address = f"127.0.0.1:{guarded.ports['USER']}"
    with closing(reader(address, topic, [0], driver=driver, user="bob", **options)) as source:
        assert len(collected(source, 3)) == 3
    with closing(reader(address, topic, [0], driver=driver, user="alice", **options)) as source:
        with pytest.raises(AccessDenied, match=f"read {topic}"):
            source.poll(LONG)
        with pytest.raises(AccessDenied):
            source.end_offsets()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_file_that_is_missing_is_a_setting_to_mend(kafka, topic, driver):
    options = {"sasl": "PLAIN", "user": "bob", "password_file": "/nowhere/password"}
    with (
        closing(reader(kafka.address, topic, [0], driver=driver, **options)) as source,
        pytest.raises(SettingsError, match="password_file"),
    ):
        source.poll(0.0)
