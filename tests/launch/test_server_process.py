"""The server's process is known by the lock that it holds, from its first moment to its last."""

import os
import subprocess
import sys

import pytest
from programs import environment, until

from fedmb.launch.server_process import ServerProcess
from fedmb.telemetry.run_directory import RunDirectory

OWNS_IT = (
    "import pathlib, sys, time; from fedmb.telemetry.run_directory import RunDirectory; "
    "run = RunDirectory(pathlib.Path(sys.argv[1])); time.sleep(600)"
)


@pytest.fixture
def run(tmp_path):
    """A run that this process has begun and given up, as `fedmb server` does."""
    found = RunDirectory.create(tmp_path / "run", config="", seed=0)
    found.close()
    return found


def owner(run):
    return subprocess.Popen([sys.executable, "-c", OWNS_IT, str(run.path)], env=environment())


def test_it_begins_when_it_takes_the_directory_and_is_gone_when_it_ends(run):
    with ServerProcess(run.lock) as process:
        before = (process.has_begun, process.is_gone)
        child = owner(run)
        until(lambda: process.has_begun, 60, run.lock.read_text)
        at_work = process.is_gone
        process.kill()
        until(lambda: process.is_gone, 60, lambda: "end")
        child.wait()

        assert (before, at_work) == ((False, False), False)
        assert process.has_begun


def test_the_one_before_is_not_taken_for_the_next(run):
    first = owner(run)
    until(lambda: run.lock.read_text() == str(first.pid), 60, run.lock.read_text)
    first.kill()
    first.wait()
    with ServerProcess(run.lock) as process:
        assert not process.has_begun
        process.kill()
        second = owner(run)
        until(lambda: process.has_begun, 60, run.lock.read_text)
        second.kill()
        second.wait()

        assert process.is_gone


@pytest.mark.parametrize("named", ["", "nobody", str(os.getpid()), str(2**22 + 1)], ids=["torn", "word", "us", "ended"])
def test_who_cannot_be_watched_has_not_begun(named, tmp_path):
    lock = tmp_path / "owner.lock"
    with ServerProcess(lock) as process:
        lock.write_text(named)

        assert not process.has_begun
        assert not process.is_gone
