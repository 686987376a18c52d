"""Whose clock a node signs by; tests/processes has clients an hour fast and slow, with keys and without."""

import datetime as dt
import subprocess
import sys

import pytest

from fedmb.access import server_clock
from fedmb.access.server_clock import AHEAD, following, seconds_ahead

NOW = dt.datetime(2026, 11, 30, 12, 0, 0, 600_000, tzinfo=dt.UTC)
SIGNED = """
import datetime as dt
from fedmb.access.server_clock import follow
follow()
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
import httpx
key = ec.generate_private_key(ec.SECP384R1())
class Context:
    request = httpx.Request("POST", "http://127.0.0.1")
NodeAuthHttpInterceptor(key, key.public_key()).intercept(Context, lambda context: None)
told = dt.datetime.fromisoformat(Context.request.headers["flwr-timestamp"])
print((told - dt.datetime.now(dt.UTC)).total_seconds())
"""


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Mon, 30 Nov 2026 13:00:00 GMT", 3599.4),
        ("Mon, 30 Nov 2026 11:00:00 GMT", -3600.6),
        ("Mon, 30 Nov 2026 11:59:59 GMT", 0.0),  # nobody need know
        ("Wed, 02 Dec 2026 12:00:00 GMT", 0.0),  # two days: too far to sign for
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Mon, 30 Nov 2026 13:00:00 -0000", 0.0),  # no zone is told
        ("yesterday", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_a_date_tells_how_far_the_clocks_are_apart(date, ahead):
    assert seconds_ahead(date, NOW) == pytest.approx(ahead)


@pytest.mark.parametrize("ahead", [0.0, 3600.0, -7200.5])
def test_flowers_own_signature_follows_the_servers_clock(ahead):
    told = following(ahead)

    done = subprocess.run([sys.executable, "-c", SIGNED], env=told, check=True, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(ahead, abs=5)
    assert bool(told) == bool(ahead)


def test_a_flower_that_signs_elsewhere_is_named(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "flwr.supernode", None)
    monkeypatch.setenv(AHEAD, "3600")

    server_clock.follow()

    assert "signs by this machine's clock alone; set it by NTP" in caplog.text
