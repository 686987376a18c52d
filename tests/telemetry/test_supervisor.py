"""A supervisor reads on a real socket how the process stands."""

import math
import os
import socket

import pytest

from fedmb.telemetry.supervisor import Supervisor


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.settimeout(5)
        yield found


def heard(listener):
    return listener.recv(4096).decode().split("\n")


def test_it_hears_of_readiness_of_each_new_status_and_of_the_end(listener):
    supervisor = Supervisor.from_environment({"NOTIFY_SOCKET": listener.getsockname()})

    supervisor.ready("reading 4 partitions")
    supervisor.status("reading 4 partitions")
    supervisor.status("stalled\nfor room")
    supervisor.alive()
    supervisor.stopping("draining")

    assert heard(listener) == ["READY=1", "STATUS=reading 4 partitions"]
    assert heard(listener) == ["STATUS=stalled for room"]
    assert heard(listener) == ["STOPPING=1", "STATUS=draining"]


def test_a_watchdog_is_answered_twice_as_often_as_it_asks(listener):
    supervisor = Supervisor.from_environment({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000000"})

    supervisor.alive()

    assert heard(listener) == ["WATCHDOG=1"]
    assert supervisor.beat_seconds == 1.5


@pytest.mark.parametrize("process", [os.getpid() + 1, "x"], ids=["another", "none"])
def test_a_watchdog_for_another_process_is_none(process):
    supervisor = Supervisor.from_environment({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(process)})

    assert supervisor.beat_seconds == math.inf


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0fedmb-{os.getpid()}")
        listener.settimeout(5)
        Supervisor(f"@fedmb-{os.getpid()}").ready("x")

        assert heard(listener) == ["READY=1", "STATUS=x"]


def test_a_supervisor_that_is_gone_is_said_once(tmp_path, caplog):
    supervisor = Supervisor(str(tmp_path / "gone"))

    supervisor.ready("x")
    supervisor.stopping("y")

    assert [record.msg.split("%")[0] for record in caplog.records] == ["supervisor not reached socket="]


def test_without_a_supervisor_nothing_is_sent(caplog):
    Supervisor.from_environment({}).ready("x")

    assert not caplog.records
