import os
import socket
from contextlib import suppress

import numpy as np
import pytest
from replay_service import numbered, serving

from fedmb.errors import AccessDenied, DecodeError, NotEnoughRoom, Unreachable
from fedmb.replay import shared_service
from fedmb.replay.frame_socket import FrameSocket
from fedmb.replay.remote import RemoteTable
from fedmb.replay.shared_arena import Wanted, boot
from fedmb.replay.shared_path import SharedStream
from fedmb.replay.wire_format import Hello, Kind, frame, frames

pytestmark = pytest.mark.timeout(60)


def share(service, **changes):
    return {"socket": service._shared.name, "ticket": service.door.ticket, "boot": boot()} | changes


def test_whoever_was_let_in_may_share_memory():
    with serving() as service:
        stream = SharedStream(share(service), Hello("default", "w"), "Ask", Wanted(1, 10))
        stream.send(frame(Kind.STATISTICS, sequence=4))

        assert next(frames(stream.receive(5))).sequence == 4
        stream.close()


@pytest.mark.parametrize("ticket", ["", "guessed", "ä"])
def test_without_the_ticket_nobody_is_let_in(ticket):
    with serving() as service:
        with pytest.raises(AccessDenied, match="another ticket"):
            SharedStream(share(service, ticket=ticket), Hello("default", "w"), "Ask", Wanted(1, 10))

        assert service.door.statistics().opened == 0


def test_another_machine_uses_grpc():
    with serving() as service, pytest.raises(Unreachable, match="runs on another"):
        SharedStream(share(service, boot="other"), Hello("default", "w"), "Ask", Wanted(1, 10))


def test_a_process_of_another_user_is_sent_away(monkeypatch):
    with serving() as service:
        monkeypatch.setattr(shared_service, "_is_ours", lambda connection: False)
        with pytest.raises(Unreachable):
            SharedStream(share(service), Hello("default", "w"), "Ask", Wanted(1, 10))
        with RemoteTable(service.address) as table:
            table.append(numbered(0, 3))  # over gRPC, by itself

            assert len(table) == 3


def test_peers_are_told_apart_by_the_kernel():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert shared_service._is_ours(one)


def test_memory_has_a_limit_for_each_and_for_all():
    with serving() as service:
        service._shared._most_bytes = 50_000
        with pytest.raises(DecodeError, match="50000 bytes at most"):
            SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(2, 30_000))
        first = SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(1, 30_000))
        with pytest.raises(NotEnoughRoom, match="30000 are taken"):
            SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(1, 30_000))
        first.close()
        while service._shared._taken:
            os.sched_yield()

        SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(1, 30_000)).close()


@pytest.mark.parametrize(
    "message",
    [
        frame(Kind.PULL, np.array([9], np.uint32), rows=1, extra=1),
        frame(Kind.PULL, np.array([0], np.uint32), rows=1, extra=2),
        bytes(64),
        os.urandom(64),
    ],
    ids=["two slots", "a slot twice", "zeros", "random"],
)
def test_slots_that_are_none_and_garbage_end_the_stream_alone(message):
    with serving() as service:
        stream = SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(2, 4096))
        stream.send(message)
        answer = next(frames(stream.receive(5)))
        assert answer.kind is Kind.REFUSED
        with pytest.raises(Unreachable):
            stream.receive(5)
        stream.close()
        with RemoteTable(service.address, transport="shared") as table:
            assert len(table) == 0


def test_mutated_frames_end_their_stream_and_nothing_else():
    random = np.random.default_rng(7)
    with serving() as service:
        good = frame(Kind.INSERT, (0).to_bytes(4, "little"), rows=3, sequence=1, flags=8)
        for _ in range(200):
            message = bytearray(good)
            for _ in range(random.integers(1, 4)):
                message[random.integers(len(message))] ^= 1 << int(random.integers(8))
            if message == good:
                continue
            stream = SharedStream(share(service), Hello("default", "w"), "Write", Wanted(1, 4096))
            stream.send(bytes(message))
            stream._stream._socket.shutdown(socket.SHUT_WR)
            with suppress(Unreachable):
                while message := stream.receive(10):
                    assert {one.kind for one in frames(message)} == {Kind.REFUSED}
            stream.close()

        assert service.tables["default"].table.statistics().appended == 0
        with RemoteTable(service.address, transport="shared") as table:
            assert len(table.append(numbered(0, 3))) == 3


def test_whoever_connects_and_says_nothing_or_nonsense_is_dropped(monkeypatch):
    monkeypatch.setattr(shared_service, "HELLO_SECONDS", 0.05)
    with serving() as service:
        for said in (b"", b"x" * 5000, frame(Kind.SHARE, b"{}"), frame(Kind.PULL)):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(f"\0{service._shared.name}")
                raw.sendall(said)
                raw.settimeout(10)
                while raw.recv(4096):
                    continue

        with RemoteTable(service.address, transport="shared") as table:
            table.append(numbered(0, 3))
            assert len(table.sample(2)) == 2


def test_a_batch_that_does_not_fit_its_slot_is_refused():
    with serving() as service:
        service.tables["default"].table.append(numbered(0, 50))
        stream = SharedStream(share(service), Hello("default", "w"), "Sample", Wanted(2, 4096))
        stream.send(frame(Kind.PULL, np.array([1], np.uint32), rows=500, extra=1, sequence=3))
        refused = next(frames(stream.receive(5)))
        stream.send(frame(Kind.PULL, np.array([1], np.uint32), rows=5, extra=1))

        assert (refused.kind, refused.rows, refused.sequence) == (Kind.REFUSED, 500, 3)
        assert next(frames(stream.receive(5))).kind is Kind.BATCH
        stream.close()


def test_a_client_that_was_killed_gives_back_its_memory():
    with serving() as service:
        one, other = socket.socketpair()
        FrameSocket(one, 10).close()
        other.close()
        stream = SharedStream(share(service), Hello("default", "w"), "Write", Wanted(4, 4096))
        assert service._shared._taken
        stream._stream._socket.close()
        while service._shared._taken:
            os.sched_yield()

        assert not service._shared._streams
