"""How processes stand is said as it is: before the start, at work, amiss, silent, ending."""

import threading

import pytest

from fedmb.launch import standing as module
from fedmb.launch.standing import STARTING, Standing


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_readiness_follows_the_work(clock):
    stop = threading.Event()
    standing = Standing("server", stop, "run")
    said = [standing.unready()]
    standing.at_work()
    said.append(standing.unready())
    standing.amiss("the SuperLink ended")
    said.append(standing.unready())
    stop.set()
    said.append(standing.unready())

    assert said == [STARTING, "", "the SuperLink ended", "it is draining"]


def test_what_is_amiss_is_unhealthy_only_when_it_lasts(clock):
    standing = Standing("server", threading.Event(), "run")
    clock[0] += 40.0
    said = [standing.unhealthy(30.0)]  # the first start may wait for a server or clients as long as it likes
    standing.at_work()
    standing.amiss("the SuperLink ended")
    clock[0] += 20.0
    standing.amiss("the SuperLink does not answer")  # the same outage goes on
    standing.beat()
    said.append(standing.unhealthy(30.0))
    clock[0] += 20.0
    said.append(standing.unhealthy(30.0))
    standing.at_work()
    said.append(standing.unhealthy(30.0))

    assert said == ["", "", "the SuperLink does not answer, for 40 s", ""]


def test_silence_of_the_thread_that_looks_after_processes_is_unhealthy(clock):
    standing = Standing("server", threading.Event(), "run")
    standing.at_work()
    clock[0] += module.SILENT_SECONDS + 1
    silent = (standing.is_silent, standing.unhealthy(30.0))
    standing.beat()

    assert silent == (True, "nothing was started or looked after for 90 s")
    assert not standing.is_silent


def test_restarts_are_counted_by_part():
    standing = Standing("client", threading.Event(), "node", "trainer")
    standing.restarted("node")
    standing.restarted("node")

    found = {(one.name, *one.labels.values()): one.value for metric in standing.metrics() for one in metric.samples}
    assert found == {
        ("fedmb_client_up",): 1,
        ("fedmb_client_at_work",): 0,
        ("fedmb_client_restarts_total", "node"): 2,
        ("fedmb_client_restarts_total", "trainer"): 0,
    }
