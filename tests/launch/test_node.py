"""What a client does about SuperNodes that end; programs of a line stand for them."""

import sys
import threading

import pytest

from fedmb.errors import FedmbError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.node_note import note_node, noted_node
from fedmb.launch import node as module
from fedmb.launch.node import PARTS, SHORT_LIVES, Node
from fedmb.launch.standing import Standing

LIVED = "open('lives', 'a').write('x')"
KILLED = "__import__('os').kill(__import__('os').getpid(), 9)"


class Door:
    """A server that lets everybody in, and hears who leaves."""

    def __init__(self, *, is_listed=True, ahead=0.0):
        self.is_listed, self.ahead, self.left = is_listed, ahead, []

    def wait_until_let_in(self, stop, on_knock):
        on_knock()
        return self.ahead

    def knock(self):
        return self.ahead

    def leave(self, node, ahead):
        assert ahead == self.ahead
        self.left.append(node)
        return self.is_listed


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """Runs a client whose SuperNode does this in its first life and ends with code 1 in the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(module, "HEARD_SECONDS", 0.0)
    stop, settings = threading.Event(), ClientSettings(name="ward", source="table:task", state=tmp_path, resident=False)

    def run(server, first="pass", noted=None):
        lines = f"import os, sys\nfirst = not os.path.exists('lives')\n{LIVED}\nif first: {first}\nsys.exit(1)"
        monkeypatch.setattr(module.commands, "supernode", lambda *_, **__: [sys.executable, "-c", lines])
        with Node(settings, server, port=1, standing=Standing("client", stop, *PARTS)) as node:
            if noted is not None:
                note_node(tmp_path, noted)
            with pytest.raises(FedmbError, match="must keep running, it ended at once 3 times, last with code 1"):
                node.supervise(stop)
        return len((tmp_path / "lives").read_text())

    return run


def test_one_that_cannot_start_is_given_up_after_some_tries(supervised, tmp_path):
    server = Door()

    assert supervised(server) == SHORT_LIVES
    assert server.left == []


def test_goodbye_is_said_for_one_that_was_killed_in_an_earlier_life_of_the_client(supervised, tmp_path):
    server = Door()

    supervised(server, noted=7)

    assert server.left == [7]
    assert noted_node(tmp_path) is None


@pytest.mark.parametrize("ahead", [0.0, -3600.0])
def test_a_supernode_hears_how_far_the_servers_clock_is_ahead(ahead, supervised, tmp_path, caplog):
    supervised(
        Door(ahead=ahead), first="open('told', 'w').write(os.environ.get('FLOWER_SERVER_AHEAD_SECONDS', 'nothing'))"
    )

    assert (tmp_path / "told").read_text() == ("-3600.0" if ahead else "nothing")
    assert ("clock is off, signing by the server's ahead_seconds=-3600" in caplog.text) == bool(ahead)


@pytest.mark.parametrize("name", ["killed", "refused"])
def test_its_successor_is_tried_until_flower_has_missed_one_that_was_killed(name, supervised, monkeypatch):
    monkeypatch.setattr(module, "FORGOTTEN_SECONDS", 1.5)

    lives = supervised(Door(is_listed=False), first=KILLED if name == "killed" else "pass")

    assert lives == SHORT_LIVES if name == "refused" else lives > SHORT_LIVES + 1
