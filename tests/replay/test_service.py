import os
import threading

import grpc
import numpy as np
import pytest
from programs import until
from replay_service import SCHEMA, numbered, serving

from fedmb.errors import SettingsError, Unreachable, VersionMismatch
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.remote import RemoteTable
from fedmb.replay.remote_stream import HELLO_KEY, SERVICE, GrpcStream
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.row_block import RowBlock
from fedmb.replay.served_table import ServedTable
from fedmb.replay.service import ReplayService
from fedmb.replay.service_access import Listening
from fedmb.replay.wire_format import Hello, Kind, frame, frames, json_of

pytestmark = pytest.mark.timeout(60)
FUZZ = int(os.environ.get("FEDMB_FUZZ", "2000"))  # broken requests; `make soak` raises it
HELLO = (HELLO_KEY, Hello("default", "tester").encoded())
FORM = RowBlock(SCHEMA)


def insert(first=0, rows=3, **fields):
    block = FORM.block(numbered(first, rows), rows)
    return frame(Kind.INSERT, block, **{"rows": rows, "sequence": 1, **fields})


@pytest.fixture
def channel():
    """A service of one table, and a bare channel to it."""
    with serving() as service, grpc.insecure_channel(service.address) as found:
        found.table = service.tables["default"].table
        yield found


def status_of(channel, name="Write", messages=(), headers=(HELLO,)):
    """How a stream with these messages ends, and what came before."""
    call = channel.stream_stream(f"/{SERVICE}/{name}")(iter(messages), metadata=headers, timeout=20)
    came = []
    try:
        came.extend(call)
    except grpc.RpcError as error:
        return error.code(), came
    return grpc.StatusCode.OK, came


def test_rows_are_kept_that_come_as_they_should(channel):
    status, came = status_of(channel, messages=[insert()])

    kept = next(frames(came[1]))
    assert status is grpc.StatusCode.OK
    assert kept.kind is Kind.INSERTED
    assert np.frombuffer(kept.payload, np.int64).tolist() == [0, 1, 2]


def test_an_insert_that_is_sent_again_is_kept_once(channel):
    _, first = status_of(channel, messages=[insert()])
    _, again = status_of(channel, messages=[insert(), insert(3, sequence=2)])

    assert again[1] == first[1]
    assert len(channel.table) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Write", b""),
        ("Write", b"garbage"),
        ("Write", bytes(200)),
        ("Write", insert()[:-1]),
        ("Write", insert() + b"x"),
        ("Write", insert(rows=0)),
        ("Write", frame(Kind.INSERT, bytes(8), rows=3, sequence=1)),
        ("Write", frame(Kind.INSERT, rows=2**32 - 1, sequence=1)),
        ("Write", frame(Kind.INSERT, FORM.block(numbered(0, 3), 3), rows=3, sequence=1, flags=4)),
        ("Write", frame(Kind.INSERT, b"\0\0\0\0", rows=3, sequence=1, flags=8)),
        ("Write", frame(Kind.PULL, rows=1, extra=1)),
        ("Write", frame(Kind.INSERT, np.full(3 * FORM.row_bytes, 7, np.uint8), rows=3)),
        ("Sample", insert()),
        ("Sample", frame(Kind.PULL, rows=0, extra=1)),
        ("Sample", frame(Kind.PULL, rows=1, extra=0)),
        ("Sample", frame(Kind.PULL, rows=1, extra=-1)),
        ("Sample", frame(Kind.PULL, rows=1, extra=2**60)),
        ("Sample", frame(Kind.PULL, b"\0\0\0\0", rows=1, extra=1)),
        ("Ask", insert()),
        ("Ask", frame(Kind.REPRIORITIZE, bytes(15), rows=1)),
        ("Ask", frame(Kind.WELCOME)),
    ],
)  # fmt: skip
def test_what_is_no_request_ends_its_stream_and_nothing_else(channel, name, message):
    status, came = status_of(channel, name, [message])

    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert len(came) == 1, "the welcome"
    assert len(channel.table) == 0
    assert status_of(channel, messages=[insert()])[0] is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        (b"", "INVALID_ARGUMENT"),
        (b"{}", "FAILED_PRECONDITION"),
        (b'{"version": 2, "table": "default", "writer": "w"}', "FAILED_PRECONDITION"),
        (b'{"version": 1, "table": "default"}', "FAILED_PRECONDITION"),
        (b'{"version": 1, "byteorder": "little", "table": "default"}', "INVALID_ARGUMENT"),
        (Hello("other", "w").encoded(), "NOT_FOUND"),
        (Hello("default", "w", {"x": SCHEMA["x"]}).encoded(), "FAILED_PRECONDITION"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_before_anything_is_read(channel, hello, expected):
    status, came = status_of(channel, messages=[insert()], headers=[(HELLO_KEY, hello)])

    assert status.name == expected
    assert not came


def test_there_are_no_other_methods(channel):
    assert status_of(channel, "Shutdown")[0] is grpc.StatusCode.UNIMPLEMENTED
    assert status_of(channel, "../Write")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_client_is_told_of_another_version_by_the_error_for_it(channel):
    hello = (HELLO_KEY, b'{"version": 2, "table": "default", "writer": "w"}')

    with pytest.raises(VersionMismatch, match="version 1"):
        GrpcStream(channel, "Ask", [hello], timeout=20)


def test_a_message_beyond_the_limit_is_refused_unread():
    with serving(max_message_bytes=10_000) as service, grpc.insecure_channel(service.address) as channel:
        status, _ = status_of(channel, messages=[bytes(20_000)])

        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status_of(channel, messages=[insert()])[0] is grpc.StatusCode.OK


def test_a_stream_too_many_is_refused_and_said():
    with serving(max_streams=2) as service:
        with RemoteTable(service.address, transport="grpc") as table:
            table.append(numbered(0, 3))
            table.sample(2)
            with pytest.raises(Unreachable, match="room"):
                RemoteTable(service.address, transport="grpc")

        def has_room():
            try:
                RemoteTable(service.address, transport="grpc").close()
            except Unreachable:
                return False
            return True

        until(has_room, 30, lambda: "room")  # the service hears of a stream's end a moment after us


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_mutated_requests_are_refused_and_the_service_lives(channel):
    random = np.random.default_rng(11)
    seeds = {
        "Write": [insert(), insert(rows=40), insert(rows=1)],
        "Sample": [frame(Kind.PULL, rows=4, extra=2)],
        "Ask": [frame(Kind.REPRIORITIZE, np.arange(3), np.ones(3), rows=3), frame(Kind.STATISTICS, sequence=4)],
    }
    refused = 0
    for turn in range(FUZZ):
        name = list(seeds)[turn % 3]
        message = bytearray(seeds[name][turn % len(seeds[name])])
        original = bytes(message)
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(message))) if message else 0
            match int(random.integers(4)):
                case 0 if message:
                    message[at] ^= 1 << int(random.integers(8))
                case 1:
                    message[at:at] = random.bytes(int(random.integers(1, 40)))
                case 2:
                    del message[at : at + int(random.integers(1, 40))]
                case _ if message:
                    message[at : at + 4] = random.bytes(4)
        if bytes(message) == original:
            continue
        status, came = status_of(channel, name, [bytes(message)])
        assert status is grpc.StatusCode.INVALID_ARGUMENT, (status, name, bytes(message).hex())
        refused += len(came) == 1

    assert refused > 0.95 * FUZZ
    assert channel.table.statistics().appended == 0
    assert channel.table.statistics().reprioritized == 0
    assert status_of(channel, messages=[insert()])[0] is grpc.StatusCode.OK


def test_a_client_that_does_not_read_is_not_drawn_for_without_end():
    table = ReplayTable(SCHEMA, 1000, name="default")
    with serving(table) as service, grpc.insecure_channel(service.address) as channel:
        table.append(numbered(0, 1000))
        pull = frame(Kind.PULL, rows=1000, extra=4000)
        call = channel.stream_stream(f"/{SERVICE}/Sample")(iter([pull]), metadata=[HELLO], timeout=50)
        next(call)  # the welcome
        drawn = [-1] * 20
        while drawn[0] != drawn[-1] or not drawn[-1]:
            threading.Event().wait(0.01)
            drawn = [*drawn[1:], table.statistics().sampled]
        came = sum(one.kind is Kind.BATCH for message in call for one in frames(message))

    assert drawn[-1] < 1_000_000, "of four million that it asked for"
    assert came == 4000


def test_numbers_that_no_table_takes_are_refused_without_ending_the_stream(channel):
    bad = frame(Kind.REPRIORITIZE, np.array([1]), np.array([np.nan]), rows=1, sequence=1)
    status, came = status_of(channel, "Ask", [bad, frame(Kind.STATISTICS, sequence=2)])

    kinds = [one.kind for message in came for one in frames(message)]
    assert status is grpc.StatusCode.OK
    assert kinds == [Kind.WELCOME, Kind.REFUSED, Kind.FIGURES]
    assert json_of(next(frames(came[1])).payload)["error"] == "ValueError"


def test_a_machine_without_shared_memory_serves_over_grpc(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("fedmb.replay.service.SharedService", refuse)
    with serving() as service:
        with RemoteTable(service.address) as table:
            table.append(numbered(0, 3))
            assert len(table.sample(2)) == 2
        with pytest.raises(SettingsError, match="must share memory"):
            RemoteTable(service.address, transport="shared").append(numbered(0, 1))


def test_a_port_that_is_taken_is_refused():
    with serving() as service, pytest.raises(SettingsError, match="the port is taken"):
        ReplayService({}, Listening(port=int(service.address.rpartition(":")[2])))


def test_a_service_that_ends_finishes_streams_that_wait():
    limited = ReplayTable(SCHEMA, 100, limiter=RateLimiter.min_rows(5), name="default")
    raised = []

    def wait(transport):
        try:
            RemoteTable(service.address, transport=transport, reconnect_seconds=0.0).sample(4)
        except Unreachable as error:
            raised.append(error)

    service = ReplayService({"default": ServedTable(limited)}, Listening())
    service.start()
    waiting = [threading.Thread(target=wait, args=(transport,)) for transport in ("grpc", "shared")]
    for thread in waiting:
        thread.start()
    while limited.statistics().limiter.sample.waiting < 2:
        threading.Event().wait(0.001)
    service.close()
    for thread in waiting:
        thread.join(20)
    limited.close()

    assert len(raised) == 2
