"""The workers of a run have one broker, and none is left when they are."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_broker import listens
from shared_broker import shared_broker

USER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from shared_broker import shared_broker
with shared_broker(Path(sys.argv[1])) as broker:
    print(broker.address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def user(tmp_path):
    """Starts a process that has the broker until its input is closed."""
    code = USER.format(tests=str(Path(__file__).parent))
    started = []

    def start():
        words = [sys.executable, "-c", code, str(tmp_path)]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1], started[-1].stdout.readline().strip()

    yield start
    for one in started:
        one.communicate(timeout=30)


def answers(address):
    return listens(int(address.rpartition(":")[2]))


def test_who_leaves_last_ends_the_broker_even_one_that_another_started(tmp_path, user):
    first, address = user()
    with shared_broker(tmp_path) as broker:
        assert broker.address == address
        data = Path(json.loads((tmp_path / "broker.json").read_text())["directory"])
        first.communicate(timeout=30)
        assert answers(address)
        assert data.is_dir()

    assert not answers(address)
    assert not data.exists()


def test_a_worker_that_was_killed_has_left_too(tmp_path, user):
    first, address = user()
    first.send_signal(signal.SIGKILL)
    first.wait()

    with shared_broker(tmp_path) as broker:
        assert broker.address != address
        assert not answers(address)

    assert not answers(broker.address)
