"""The app's half: who trains when the trainer is there, gone, new, or of another version."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedmb.federation.record_bytes import from_bytes, to_bytes
from fedmb.federation.trainer_call import TRIES, reply_through
from fedmb.federation.trainer_line import Line, Say, listening
from fedmb.replay.wire_format import json_of
from fedmb.simulation.grid import InProcessGrid

ROOT = Path(__file__).resolve().parents[2]
ASKED = RecordDict({"config": ConfigRecord({"n": 1})})
LEARNT = RecordDict({"config": ConfigRecord({"n": 2})})


@pytest.fixture
def message():
    InProcessGrid(lambda message, context: message, {2: {}})  # gives Flower's Message the identity that it demands
    found = Message(ASKED, dst_node_id=2, message_type="train")
    found.metadata.__dict__["_message_id"] = "m"
    return found


def alone():
    return "trained alone"


@contextmanager
def answering(directory, *answers):
    """A trainer that answers one call after the other, each as told; what it heard."""
    heard = []

    def serve(door):
        for answer in answers:
            connection, _ = door.accept()
            with Line(connection) as line:
                hello, learn = line.hear(30), line.hear(30)
                heard.append((json_of(hello.payload), from_bytes(learn.payload)))
                answer(line)

    with listening(directory) as door:
        thread = threading.Thread(target=serve, args=(door,))
        thread.start()
        yield heard
        thread.join()


def says_learnt(line):
    line.say(Say.LEARNT, *to_bytes(LEARNT))


def says_again(line):
    line.tell(Say.AGAIN, {"reason": "other code"})


def dies(line):
    line.close()


def test_the_trainers_reply_is_the_apps(tmp_path, message):
    with answering(tmp_path, says_learnt) as heard:
        reply = reply_through(tmp_path, message, alone, code=Path("/app"))

    assert reply.content == LEARNT
    assert heard[0][1] == ASKED
    assert heard[0][0]["code"] == "/app"


def test_a_failure_keeps_its_code_and_sentence(tmp_path, message):
    def fails(line):
        line.tell(Say.FAILED, {"code": 100, "reason": "client ward: diverged"})

    with answering(tmp_path, fails):
        reply = reply_through(tmp_path, message, alone, code=ROOT)

    assert isinstance(reply.error, Error)
    assert (reply.error.code, reply.error.reason) == (100, "client ward: diverged")


@pytest.mark.parametrize("first", [dies, says_again])
def test_a_trainer_that_ends_or_starts_afresh_is_asked_again(tmp_path, message, first):
    with answering(tmp_path, first, says_learnt) as heard:
        reply = reply_through(tmp_path, message, alone, code=ROOT)

    assert reply.content == LEARNT
    assert len(heard) == 2


def test_a_message_that_ends_every_trainer_is_learnt_by_the_app(tmp_path, message):
    with answering(tmp_path, *[dies] * TRIES):
        assert reply_through(tmp_path, message, alone, code=ROOT) == "trained alone"


def test_a_trainer_that_does_not_come_is_waited_for_no_longer_than_told(tmp_path, message):
    assert reply_through(tmp_path, message, alone, code=ROOT, patience_seconds=0.1) == "trained alone"


def test_the_app_imports_neither_torch_nor_settings():
    probe = (
        "import runpy, sys; runpy.run_path('clients/app.py'); "
        "print(sorted({'torch', 'pydantic', 'kafka', 'safetensors', 'fedmb.federation.wire'} & {*sys.modules}))"
    )

    answer = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
