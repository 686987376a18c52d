"""A door that dies is opened again; one that cannot open is given up."""

import os
import signal
import socket

import pytest
from doors import free_port, make_keys
from programs import environment, until

from fedmb.access.door_limits import DoorLimits
from fedmb.errors import FedmbError
from fedmb.launch import door_keeper
from fedmb.launch.door_keeper import DoorKeeper
from fedmb.launch.endpoint import Listen


@pytest.fixture
def keeper(tmp_path):
    keys = make_keys(tmp_path / "keys")
    listen = Listen("127.0.0.1", free_port(), keys / "server.crt", keys / "server.key", None, keys / "nodes")
    superlink = Listen("127.0.0.1", free_port())
    with DoorKeeper(listen, superlink, DoorLimits(), tmp_path, environment()) as keeper:
        yield keeper


def test_a_door_that_is_killed_opens_again(keeper, caplog):
    keeper.start()
    until(keeper.is_open, 120, lambda: "door")
    first = keeper._child.pid

    os.kill(first, signal.SIGTERM)
    until(lambda: keeper._child.poll() is not None, 60, lambda: "end")
    keeper.keep()
    until(keeper.is_open, 120, lambda: "second door")

    assert keeper._child.pid != first
    assert "door ended code=" in caplog.text
    keeper.keep()


def test_a_door_that_cannot_open_is_given_up(keeper, monkeypatch):
    monkeypatch.setattr(door_keeper, "SHORT_LIFE_SECONDS", 600.0)
    with socket.create_server(("127.0.0.1", keeper._listen.port)):
        keeper.start()
        for _ in range(door_keeper.SHORT_LIVES - 1):
            until(lambda: keeper._child.poll() is not None, 120, lambda: "end")
            keeper.keep()
        until(lambda: keeper._child.poll() is not None, 120, lambda: "end")
        with pytest.raises(FedmbError, match="must keep running, it ended at once 3 times"):
            keeper.keep()
