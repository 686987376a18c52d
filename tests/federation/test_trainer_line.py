import os
import socket
import stat
import struct

import pytest

from fedmb.errors import AccessDenied, DecodeError
from fedmb.federation import trainer_line
from fedmb.federation.trainer_line import MOST_BYTES, SOCKET, Line, Say, called, listening
from fedmb.replay.wire_format import HEADER, json_of


@pytest.fixture
def ends(tmp_path):
    with listening(tmp_path / "trainer") as door, called(tmp_path / "trainer") as app:
        connection, _ = door.accept()
        with Line(connection) as trainer:
            yield app, trainer


def test_frames_arrive_whole_and_in_order(ends):
    app, trainer = ends
    app.tell(Say.HELLO, {"version": 1})
    app.say(Say.LEARN, b"abc", b"d" * 20)

    first, second = trainer.hear(5), trainer.hear(5)

    assert (first.kind, json_of(first.payload)) == (Say.HELLO, {"version": 1})
    assert (second.kind, bytes(second.payload)) == (Say.LEARN, b"abc" + b"d" * 20)


def test_an_end_that_hangs_up_is_no_error(ends):
    app, trainer = ends
    app.close()

    assert trainer.hear(5) is None


def test_only_the_user_reaches_the_socket(tmp_path):
    with listening(tmp_path / "trainer"):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "trainer", tmp_path / "trainer" / SOCKET)]

    assert modes == [0o700, 0o600]
    assert not (tmp_path / "trainer" / SOCKET).exists()


def test_a_directory_with_a_long_name_has_a_socket_too(tmp_path):
    deep = tmp_path / ("a" * 100) / ("b" * 100)

    with listening(deep) as door, called(deep):
        connection, _ = door.accept()
        connection.close()


def test_a_killed_trainers_socket_is_replaced(tmp_path):
    stale = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path, os.O_PATH)
    stale.bind(f"/proc/self/fd/{here}/{SOCKET}")
    os.close(here)
    stale.close()

    with pytest.raises(ConnectionRefusedError):
        called(tmp_path)
    with listening(tmp_path), called(tmp_path):
        pass


def test_another_users_process_is_refused(ends, monkeypatch):
    monkeypatch.setattr(trainer_line.os, "getuid", lambda: os.geteuid() + 1)
    one, other = socket.socketpair()
    with other, pytest.raises(AccessDenied, match="one user"):
        Line(one)


def test_a_frame_that_is_too_long_is_refused_before_memory_is_taken():
    one, other = socket.socketpair()
    with Line(one) as line, other:
        other.sendall(HEADER.pack(Say.LEARN, 0, 0, 0, 0, 0, MOST_BYTES + 1, 0))

        with pytest.raises(DecodeError, match="bytes at most"):
            line.hear(5)


@pytest.mark.parametrize("head", [HEADER.pack(9, 0, 0, 0, 0, 0, 0, 0), HEADER.pack(Say.LEARN, 0, 0, 0, 0, 0, 0, 1)])
def test_frames_of_another_kind_or_checksum_are_refused(head):
    one, other = socket.socketpair()
    with Line(one) as line, other:
        other.sendall(head)

        with pytest.raises(DecodeError):
            line.hear(5)


def test_the_sockets_credentials_are_three_numbers():
    one, other = socket.socketpair()
    with one, other:
        raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)

    assert struct.unpack("3i", raw)[:2] == (os.getpid(), os.getuid())
