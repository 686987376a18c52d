"""A child never outlives its parent, and nothing that it started outlives it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmb.launch.child import Child
from fedmb.launch.keeper import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
# A program that leaves its session and its parent, as Flower's do, and ignores SIGTERM if it is told to.
STUBBORN = (
    "import os, signal, subprocess, sys, time\n"
    "if 'deaf' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if 'below' not in sys.argv:\n"
    "    command = [sys.executable, '-c', sys.argv[1], *sys.argv[1:], 'below']\n"
    "    print(os.getpid(), subprocess.Popen(command, start_new_session=True).pid, flush=True)\n"
    "    if 'short' in sys.argv: os._exit(7)\n"
    "while True: time.sleep(1)\n"
)


def alive(process):
    """True for a process that is no zombie."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except OSError:
        return False


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


@pytest.fixture
def start(tmp_path):
    """Starts the program and answers it with the ids of its two processes."""
    running = []

    def start(*words):
        output = tmp_path / "output"
        with output.open("wb") as file:
            child = Child([sys.executable, "-c", STUBBORN, STUBBORN, *words], environment=os.environ, output=file)
        running.append(child)
        until(lambda: output.read_text().endswith("\n"), 60)
        return child, [int(line) for line in output.read_text().split()]

    yield start
    for child in running:
        child.kill()


def test_stopping_a_child_ends_all_that_it_started(start):
    child, processes = start()
    assert all(map(alive, processes))

    child.stop()

    assert not any(map(alive, processes))


def test_a_child_that_will_not_listen_is_killed_after_the_grace(start):
    child, processes = start("deaf")

    began = time.monotonic()
    code = child.stop()

    assert time.monotonic() - began >= GRACE_SECONDS
    assert code == 128 + signal.SIGKILL
    assert not any(map(alive, processes))


def test_a_child_can_be_killed_at_once(start):
    child, processes = start("deaf")

    began = time.monotonic()
    child.kill()

    assert time.monotonic() - began < GRACE_SECONDS
    assert not any(map(alive, processes))


def test_what_a_child_leaves_behind_when_it_ends_is_ended(start):
    child, processes = start("short")

    until(lambda: child.poll() is not None, 60)

    assert child.poll() == 7
    assert not any(map(alive, processes))


def test_what_a_child_leaves_behind_when_it_is_killed_is_killed_at_once(start):
    child, processes = start("deaf")
    os.kill(processes[0], signal.SIGKILL)
    began = time.monotonic()

    until(lambda: not any(map(alive, processes)), 60)
    assert time.monotonic() - began < GRACE_SECONDS
    assert child.stop() == 128 + signal.SIGKILL


def test_a_child_dies_with_its_parent(tmp_path):
    parent = (
        "import os, sys, time; from fedmb.launch.child import Child\n"
        "Child([sys.executable, '-c', sys.argv[1], *sys.argv[1:]], environment=os.environ, output=sys.stdout)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", parent, STUBBORN, "deaf"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        processes = [int(part) for part in process.stdout.readline().split()]

        process.kill()

        until(lambda: not any(map(alive, processes)), 30)


def test_a_child_dies_with_its_keeper(start):
    child, processes = start()

    os.kill(child.pid, signal.SIGKILL)

    until(lambda: not alive(processes[0]), 30)
    os.kill(processes[1], signal.SIGKILL)  # an orphan that only a keeper would have found


def test_a_wait_ends_when_it_is_told_to(start):
    child, _ = start()
    stop = threading.Event()
    stop.set()

    assert child.wait(stop) is None


def test_a_command_that_does_not_exist_has_the_shells_code():
    with Child(["/nowhere/program"], environment=os.environ, output=subprocess.PIPE) as child:
        until(lambda: child.poll() is not None, 60)

        assert child.poll() == 127
        assert "cannot be run" in child.finished_output()
