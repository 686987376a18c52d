"""What a client learns at a door: let in, refused, not there. Processes are in tests/processes/test_intruders.py."""

import datetime as dt
import socket
import threading
from email.utils import format_datetime

import pytest

from fedmb.access import knock as module
from fedmb.access.knock import knock, wait_until_let_in
from fedmb.access.new_keys import make_node
from fedmb.access.refusal import Reason, Refused
from fedmb.access.signed_headers import TIME_HEADER
from fedmb.errors import AccessDenied, SettingsError, Unreachable


@pytest.fixture
def answering():
    """Starts a server that answers each connection with the next of these, and the last one ever after."""
    stopped, heard = [], []

    def start(*answers):
        server = socket.create_server(("127.0.0.1", 0))
        stopped.append(server)
        left = list(answers)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if asked := connection.recv(65_536):
                        heard.append(asked.decode())
                        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()[1]

    start.heard = heard
    yield start
    for server in stopped:
        server.close()


def answer(status, body=b"", ahead=None):
    date = "" if ahead is None else f"date: {format_datetime(now() + dt.timedelta(seconds=ahead), usegmt=True)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{date}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def refusal(reason, ahead=None):
    return answer(Refused(reason, "").status, Refused(reason, f"{reason}: rule; way out").body, ahead)


def now():
    return dt.datetime.now(dt.UTC)


@pytest.mark.parametrize("told", [answer(204), answer(404, b'{"detail": "Not Found"}'), refusal(Reason.PATH)])
def test_a_server_that_lets_us_in_or_has_no_door_is_as_good(told, answering):
    knock("127.0.0.1", answering(told), tls=False)


@pytest.mark.parametrize("reason", [Reason.NO_KEY, Reason.UNKNOWN_KEY, Reason.CLOCK, Reason.SIGNATURE, Reason.REPLAY])
def test_a_refusal_is_the_doors_own_sentence(reason, answering):
    with pytest.raises(AccessDenied, match=f"^{reason}: rule; way out$"):
        knock("127.0.0.1", answering(refusal(reason)), tls=False)


def test_who_is_refused_for_its_clock_signs_again_by_the_servers(answering, tmp_path):
    make_node(tmp_path, "ward")
    port = answering(refusal(Reason.CLOCK, ahead=3600), answer(204, ahead=3600))

    ahead = knock("127.0.0.1", port, tls=False, key=tmp_path / "ward.key")

    assert ahead == pytest.approx(3600, abs=5)
    signed = [one.partition(f"{TIME_HEADER}: ")[2].partition("\r\n")[0] for one in answering.heard]
    assert [(dt.datetime.fromisoformat(one) - now()).total_seconds() for one in signed] == [
        pytest.approx(0, abs=5),
        pytest.approx(3600, abs=5),
    ]


@pytest.mark.parametrize("ahead", [None, 0, 10 * 86_400])
def test_a_clock_that_is_not_made_good_is_the_doors_own_sentence(ahead, answering):
    with pytest.raises(AccessDenied, match=r"^clock: rule; way out$"):
        knock("127.0.0.1", answering(refusal(Reason.CLOCK, ahead)), tls=False)


@pytest.mark.parametrize(("told", "ahead"), [(None, 0), (1, 0), (-600, -600)])
def test_a_server_without_a_door_tells_its_time_too(told, ahead, answering):
    assert knock("127.0.0.1", answering(answer(404, b"{}", told)), tls=False) == pytest.approx(ahead, abs=5)


def test_nobody_there_is_unreachable_not_denied(answering):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match="a server must answer at "):
        knock("127.0.0.1", port, tls=False)
    with pytest.raises(Unreachable):
        knock("127.0.0.1", answering(b"nonsense"), tls=False)


def test_waiting_ends_when_the_door_opens_and_says_once_what_it_waits_for(answering, monkeypatch, caplog):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    port = answering(refusal(Reason.EARLY), refusal(Reason.EARLY), refusal(Reason.SUPERLINK), answer(204))

    wait_until_let_in("127.0.0.1", port, threading.Event(), tls=False)

    assert [record.message for record in caplog.records] == [
        "waiting for the server: early: rule; way out",
        "waiting for the server: superlink: rule; way out",
    ]


def test_waiting_ends_when_it_is_told_to(answering):
    stop = threading.Event()
    stop.set()

    wait_until_let_in("127.0.0.1", answering(refusal(Reason.NO_KEY)), stop, tls=False)


def test_files_that_are_none_are_refused(tmp_path, answering):
    make_node(tmp_path, "ward")
    (tmp_path / "ward.pub").chmod(0o600)

    with pytest.raises(SettingsError, match="--root-certificates must be a PEM file"):
        knock("127.0.0.1", answering(answer(204)), tls=True, roots=tmp_path / "ward.pub")
    with pytest.raises(SettingsError, match="a private OpenSSH key"):
        knock("127.0.0.1", answering(answer(204)), tls=False, key=tmp_path / "ward.pub")
