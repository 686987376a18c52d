import contextlib
import socket

import pytest

from fedmb.errors import DecodeError
from fedmb.replay.frame_socket import FrameSocket
from fedmb.replay.wire_format import HEADER, Kind, frame, frames, padded


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    yield FrameSocket(one, 1000), other
    one.close()
    other.close()


def test_frames_arrive_whole_however_they_were_cut(ends):
    stream, other = ends
    message = b"".join(one.ljust(padded(len(one)), b"\0") for one in (frame(Kind.DONE, b"abc"), frame(Kind.DONE)))

    for cut in range(1, len(message)):
        other.sendall(message[:cut])
        found = b""
        with contextlib.suppress(BlockingIOError):
            found += stream.receive(0)
        other.sendall(message[cut:])
        while len(found) < len(message):
            found += stream.receive(5)

        assert found == message
        assert len(list(frames(found))) == 2


def test_a_frame_that_is_too_long_is_refused_by_its_header(ends):
    stream, other = ends
    other.sendall(HEADER.pack(Kind.INSERT, 0, 0, 1, 1, 0, 1001, 0))

    with pytest.raises(DecodeError, match="1000 bytes at most, got 1001"):
        stream.receive(5)


def test_silence_ends_at_the_deadline_and_loses_nothing(ends):
    stream, other = ends
    message = frame(Kind.DONE)
    other.sendall(message[:20])

    with pytest.raises(TimeoutError):
        stream.receive(0.01)
    other.sendall(message[20:])
    assert stream.receive(5) == message


def test_an_end_that_has_closed_is_seen(ends):
    stream, other = ends
    assert stream.is_open()

    other.sendall(b"x")
    assert stream.is_open()
    other.close()
    assert stream.receive(5) == b""
    stream.close()
    assert not stream.is_open()


def test_what_is_sent_is_padded():
    one, other = socket.socketpair()
    with one, other:
        FrameSocket(one, 1000).send(frame(Kind.DONE, b"abc"))

        assert len(other.recv(100)) == HEADER.size + 16
