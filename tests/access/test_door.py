"""What the door passes on, and what it does not; behind it stands a server that notes what reaches it."""

import asyncio
import datetime as dt

import httpx
import pytest
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from guests import Guests
from starlette.requests import Request
from starlette.responses import Response

from fedmb.access.door import ACTIVATE, KNOCK, PATHS, PULL, PUSH, SELF_REGISTERING, Door
from fedmb.access.door_limits import DoorLimits
from fedmb.access.node_keys import private_key
from fedmb.access.refusal import Reason, refused_by
from fedmb.access.signed_headers import pem_of, signed

SMALL = DoorLimits(max_request_bytes=2**16, max_reply_bytes=2**16)


class NotingSuperLink:
    """An ASGI application that notes each request it got whole, and answers what it is told to."""

    def __init__(self):
        self.got = []
        self.answers = {}

    async def __call__(self, scope, receive, send):
        request = Request(scope, receive)
        self.got.append((request.url.path, dict(request.headers), await request.body()))
        answer = self.answers.get(request.url.path, Response(b"fine", media_type="application/protobuf"))
        await answer(scope, receive, send)


@pytest.fixture
def guests(tmp_path):
    return Guests(tmp_path / "nodes")


@pytest.fixture
def behind():
    return NotingSuperLink()


@pytest.fixture
def ask(guests, behind):
    """Sends requests, one after the other, through one door; answers what came back."""
    opened = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)

    def ask(*requests, keys=guests.keys, limits=SMALL):
        async def run():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(behind), base_url="http://superlink") as inside:
                door = Door(inside, limits, keys, opened)
                async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as outside:
                    return [
                        await outside.request(told.pop("method", "POST"), told.pop("path"), **told) for told in requests
                    ]

        return asyncio.run(run())

    return ask


def reasons(answers):
    return [None if answer.status_code < 400 else refused_by(answer.content).reason for answer in answers]


def test_what_a_supernode_calls_comes_through_and_back(ask, guests, behind):
    answers = ask(*({"path": path, "headers": guests.headers(), "content": b"body"} for path in sorted(PATHS)))

    assert [answer.content for answer in answers] == [b"fine"] * len(PATHS)
    passed = [(path, body) for path, _, body in behind.got if path.startswith("/v1/fleet/")]
    assert passed == [(path, b"body") for path in sorted(PATHS)]


def test_supernodes_call_no_other_paths():
    from inspect import getsource

    from flwr.supernode import fleet_http_client

    called = {line.split('"')[1] for line in getsource(fleet_http_client).splitlines() if "path=" in line}
    assert called == PATHS | SELF_REGISTERING


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/push-messages",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet//pull-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
    ],
)
def test_nothing_else_is_reachable_even_for_a_listed_node(path, ask, guests, behind):
    (answer,) = ask({"path": path, "headers": guests.headers()})

    assert answer.status_code == 404
    assert not behind.got


def test_only_posts_are_passed_on(ask, guests, behind):
    assert reasons(ask({"method": "GET", "path": PULL, "headers": guests.headers()})) == [Reason.PATH]
    assert not behind.got


def test_strangers_are_refused_before_their_body_is_read(ask, guests, behind):
    def body():
        raise AssertionError("nobody asked for it")
        yield b""

    class Unread(httpx.AsyncByteStream):
        async def __aiter__(self):
            for piece in body():
                yield piece

    asked = [{}, guests.headers("stranger"), guests.headers(seconds=3600)]
    answers = ask(*({"path": PUSH, "headers": headers, "content": Unread()} for headers in asked))

    assert reasons(answers) == [Reason.NO_KEY, Reason.UNKNOWN_KEY, Reason.CLOCK]
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert not behind.got


def test_headers_that_came_in_once_do_not_come_in_again(ask, guests, behind):
    headers = guests.headers()

    answers = ask(*({"path": path, "headers": headers} for path in (PULL, PULL, PUSH)))

    assert reasons(answers) == [None, Reason.REPLAY, Reason.REPLAY]
    assert len(behind.got) == 1


def test_a_knock_says_whether_a_node_is_let_in(ask, guests, behind):
    answers = ask({"path": KNOCK, "headers": guests.headers()}, {"path": KNOCK}, {"path": KNOCK})

    assert [answer.status_code for answer in answers] == [204, 401, 401]
    assert not behind.got


def test_a_listed_key_is_registered_when_its_node_activates_itself(ask, guests, behind):
    behind.answers["/v1/control/register-node"] = Response(b'{"code": 23, "detail": "in use"}', 412)

    (answer,) = ask({"path": ACTIVATE, "headers": guests.headers()})

    assert answer.status_code == 200
    (path, _, body), (second, _, _) = behind.got
    assert (path, second) == ("/v1/control/register-node", ACTIVATE)
    key = pem_of(private_key(guests.place / "ward.key").public_key())
    assert RegisterNodeRequest.FromString(body) == RegisterNodeRequest(public_key=key, name="ward")


def test_a_superlink_that_takes_no_key_is_named(ask, guests, behind):
    behind.answers["/v1/control/register-node"] = Response(b'{"code": 5, "detail": "no"}', 500)

    assert reasons(ask({"path": ACTIVATE, "headers": guests.headers()})) == [Reason.SUPERLINK]


def pieces(*sizes):
    async def stream():
        for size in sizes:
            yield bytes(size)

    return stream()


def test_a_body_beyond_the_limit_is_refused_by_its_length_or_where_it_passes_it(ask, guests, behind):
    declared = {"path": PULL, "headers": guests.headers(), "content": bytes(2**16 + 1)}
    unknown = {"path": PULL, "headers": guests.headers(), "content": pieces(2**15, 2**15, 1)}
    fitting = {"path": PULL, "headers": guests.headers(), "content": pieces(2**15, 2**15)}

    assert reasons(ask(declared, unknown, fitting)) == [Reason.SIZE, Reason.SIZE, None]
    assert [len(body) for _, _, body in behind.got] == [2**16]


def test_a_reply_has_a_limit_that_a_new_message_lifts(ask, guests, behind):
    def push():
        return {"path": PUSH, "headers": guests.headers(), "content": bytes(2**15)}

    def pull():
        return {"path": PULL, "headers": guests.headers()}

    idle = ask(push(), push(), push(), pull(), push())
    behind.answers[PULL] = Response(b"", media_type="application/protobuf")
    without = ask(push(), push(), pull(), push())

    assert reasons(idle) == [None, None, Reason.SIZE, None, None]
    assert reasons(without) == [None, None, None, Reason.SIZE]
    assert "raise the server's door.max_reply_bytes" in idle[2].json()["detail"]


def test_flowers_answer_without_a_message_is_empty():
    assert PullMessagesResponse().SerializeToString() == b""  # by which the door tells it from a new message


def test_where_no_keys_are_listed_everybody_on_this_machine_comes_in(ask, behind):
    answers = ask({"path": PULL}, {"path": "/v1/fleet/register-node"}, {"path": "/v1/control/start-run"}, keys=None)

    assert reasons(answers) == [None, None, Reason.PATH]
    assert len(behind.got) == 2


def test_a_superlink_that_is_gone_is_a_reason_to_come_again(guests):
    async def run():
        def gone(request):
            raise httpx.ConnectError("nobody there", request=request)

        async with httpx.AsyncClient(transport=httpx.MockTransport(gone), base_url="http://superlink") as inside:
            door = Door(inside, DoorLimits(), guests.keys, dt.datetime.now(dt.UTC) - dt.timedelta(1))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as outside:
                return [await outside.post(path, headers=guests.headers()) for path in (PULL, ACTIVATE)]

    assert [answer.status_code for answer in asyncio.run(run())] == [502, 502]


def test_the_superlink_gets_the_headers_that_were_checked_and_few_others(ask, guests, behind):
    own = guests.headers()
    twice = [*own.items(), *signed(private_key(guests.place / "stranger.key"), dt.datetime.now(dt.UTC)).items()]

    ask({"path": PULL, "headers": [*twice, ("cookie", "x"), ("x-forwarded-for", "y"), ("flwr-version", "1")]})

    ((_, headers, _),) = behind.got
    assert {name: headers[name] for name in own} == own
    assert headers["flwr-version"] == "1"
    assert not {"cookie", "x-forwarded-for"} & set(headers)


def test_a_request_that_takes_too_long_is_ended(ask, guests, behind):
    async def slow():
        yield b"a"
        await asyncio.sleep(60)

    limits = DoorLimits(request_seconds=0.05)
    answers = ask({"path": PULL, "headers": guests.headers(), "content": slow()}, limits=limits)

    assert reasons(answers) == [Reason.SLOW]
