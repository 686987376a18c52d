"""Metrics, health and a supervisor see the same standing, on real sockets."""

import socket
import threading
from collections import deque

import pytest
from programs import asked, until

from fedmb.launch import watched as module
from fedmb.launch.standing import Standing
from fedmb.launch.watched import Watched
from fedmb.telemetry.watching_section import Watching


@pytest.fixture
def listener(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
        yield found


def test_readiness_outage_and_end_reach_everybody(listener):
    stop, lines = threading.Event(), iter(f"round={number}" for number in range(10**6))
    standing = Standing("server", stop, "run")
    heard = []

    def hears(text):
        heard.append(listener.recv(4096).decode())
        return text in heard[-1]

    with Watched(standing, Watching(), figures=lambda: iter(()), line=lambda: next(lines)) as watched:
        before = asked(watched.address, "/readyz")
        standing.at_work()
        until(lambda: hears("READY=1\nSTATUS=round="), 10, lambda: heard)
        at_work = asked(watched.address, "/readyz")
        standing.amiss("the SuperLink ended")
        until(lambda: hears("STATUS=the SuperLink ended"), 10, lambda: heard)
        amiss, metrics = asked(watched.address, "/readyz"), asked(watched.address, "/metrics")
        stop.set()
        until(lambda: hears("STOPPING=1"), 10, lambda: heard)
        ending = asked(watched.address, "/readyz")

    assert (before[0], at_work, amiss) == (503, (200, "ok\n"), (503, "the SuperLink ended\n"))
    assert ending == (503, "it is draining\n")
    assert "fedmb_server_at_work 0.0" in metrics[1]
    assert any("STATUS=round=" in one and "READY" not in one for one in heard)


def test_a_watchdog_is_fed_as_long_as_somebody_looks_after_the_processes(listener, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    standing = Standing("server", threading.Event(), "run")
    with Watched(standing, Watching(), figures=lambda: iter(()), line=str):
        until(lambda: "WATCHDOG=1" in listener.recv(4096).decode(), 10, lambda: "a sign of life")
        monkeypatch.setattr(Standing, "is_silent", True)
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):  # what was on its way, then nothing
            deque(iter(lambda: listener.recv(4096), None), maxlen=0)


def test_beyond_this_machine_it_warns(caplog):
    standing = Standing("client", threading.Event(), "node")
    with Watched(standing, Watching(host="0.0.0.0"), figures=lambda: iter(()), line=str):  # noqa: S104  # that is it
        pass

    assert "metrics open beyond this machine, not encrypted host=0.0.0.0" in caplog.text
