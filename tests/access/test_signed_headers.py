"""Headers are Flower's own: what it signs we accept, what we sign it accepts, and nothing else passes."""

import datetime as dt
from base64 import b64encode
from types import SimpleNamespace

import pytest
from flwr.common import constant
from flwr.supercore import constant as core
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, generate_key_pairs, verify_signature
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedmb.access.refusal import Reason, Refused
from fedmb.access.signed_headers import (
    FAST_SECONDS,
    KEY_HEADER,
    SIGNATURE_HEADER,
    SLOW_SECONDS,
    TIME_HEADER,
    pem_of,
    proved_time,
    shown_key,
    signed,
)

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
KEY, PUBLIC = generate_key_pairs()


def refused(headers, pem=None, now=NOW):
    with pytest.raises(Refused) as caught:
        proved_time(headers, pem or shown_key(headers), now)
    return caught.value


def test_headers_and_window_are_named_as_in_flower():
    assert (core.FLEET_HTTP_PUBLIC_KEY_HEADER, constant.TIMESTAMP_HEADER, core.FLEET_HTTP_SIGNATURE_HEADER) == (
        KEY_HEADER,
        TIME_HEADER,
        SIGNATURE_HEADER,
    )
    assert constant.SYSTEM_TIME_TOLERANCE == FAST_SECONDS
    assert constant.TIMESTAMP_TOLERANCE + constant.SYSTEM_TIME_TOLERANCE == SLOW_SECONDS


def test_what_a_supernode_signs_is_accepted():
    request = SimpleNamespace(headers={})

    NodeAuthHttpInterceptor(KEY, PUBLIC).intercept(SimpleNamespace(request=request), lambda _: None)

    assert shown_key(request.headers) == pem_of(PUBLIC)
    proved_time(request.headers, pem_of(PUBLIC), dt.datetime.now(dt.UTC))


def test_what_we_sign_flower_accepts():
    headers = signed(KEY, NOW)

    from base64 import b64decode

    public = bytes_to_public_key(b64decode(headers[KEY_HEADER]))
    assert verify_signature(public, headers[TIME_HEADER].encode(), b64decode(headers[SIGNATURE_HEADER]))
    assert proved_time(headers, shown_key(headers), NOW) == NOW


@pytest.mark.parametrize("name", [KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER])
def test_without_one_of_the_headers_there_is_no_key(name):
    with pytest.raises(Refused, match="give fedmb client --node-key") as caught:
        shown_key({key: value for key, value in signed(KEY, NOW).items() if key != name})

    assert caught.value.reason is Reason.NO_KEY


@pytest.mark.parametrize(
    "change",
    [
        {TIME_HEADER: (NOW + dt.timedelta(seconds=1)).isoformat()},
        {TIME_HEADER: "yesterday"},
        {SIGNATURE_HEADER: b64encode(b"nonsense").decode()},
        {SIGNATURE_HEADER: "not base64!"},
        {SIGNATURE_HEADER: signed(generate_key_pairs()[0], NOW)[SIGNATURE_HEADER]},
    ],
    ids=["another time", "no time", "no signature", "no base64", "another's signature"],
)
def test_a_signature_that_does_not_hold_is_refused(change):
    assert refused(signed(KEY, NOW) | change).reason is Reason.SIGNATURE


def test_a_signed_time_without_a_zone_is_refused():
    assert refused(signed(KEY, NOW.replace(tzinfo=None))).reason is Reason.SIGNATURE


@pytest.mark.parametrize(("seconds", "words"), [(5.0, "it is 5 s fast"), (3600, "3600 s fast"), (-305, "305 s slow")])
def test_a_wrong_clock_is_named(seconds, words):
    found = refused(signed(KEY, NOW + dt.timedelta(seconds=seconds)))

    assert found.reason is Reason.CLOCK
    assert words in found.sentence


@pytest.mark.parametrize("seconds", [4.9, -304.9])
def test_flowers_window_is_open_to_its_edges(seconds):
    at = NOW + dt.timedelta(seconds=seconds)

    assert proved_time(signed(KEY, at), pem_of(PUBLIC), NOW) == at
