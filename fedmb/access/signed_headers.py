"""The three headers by which a SuperNode of Flower 1.41 proves who it is: key, timestamp, signature of the timestamp.

    flwr-public-key   base64 of the PEM of an EC public key
    flwr-timestamp    ISO 8601 in UTC
    flwr-signature    base64 of ECDSA with SHA-256 over the timestamp's characters

Nothing else is signed: neither body nor path, and there is no nonce. So whoever repeats the headers is let in by Flower
for 305 s; `seen_timestamps.py` is what a door has against that. A signature itself cannot be what is remembered: from
one of ECDSA anybody computes a second one that holds too.

Source: flwr/superlink/routers/fleet/node_auth.py and flwr/supernode/node_auth_http_interceptor.py of Flower 1.41.
"""

from __future__ import annotations

import binascii
import datetime as dt
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fedmb.access.refusal import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = "flwr-public-key", "flwr-timestamp", "flwr-signature"
FAST_SECONDS, SLOW_SECONDS = 5.0, 305.0  # Flower's window: how far a node's clock may be ahead of and behind ours
_LONGEST = 4096  # characters of a header; the longest EC key and signature need a few hundred


def signed(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> dict[str, str]:
    """Headers that prove who we are.

    Args:
        key: the node's private key.
        now: time with a zone.
    """
    timestamp = now.isoformat()
    return {
        KEY_HEADER: b64encode(pem_of(key.public_key())).decode(),
        TIME_HEADER: timestamp,
        SIGNATURE_HEADER: b64encode(key.sign(timestamp.encode(), ec.ECDSA(SHA256()))).decode(),
    }


def pem_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as Flower sends and stores it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def shown_key(headers: Mapping[str, str]) -> bytes:
    """PEM of the key that somebody claims to have; nothing is proved yet.

    Raises:
        Refused: a header is absent or unreadable.
    """
    if any(not headers.get(name) for name in (KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER)):
        raise Refused(
            Reason.NO_KEY, "a node must sign its requests with its key, got no signature; give fedmb client --node-key"
        )
    return _decoded(headers, KEY_HEADER)


def proved_time(headers: Mapping[str, str], pem: bytes, now: dt.datetime) -> dt.datetime:
    """When somebody signed who does have the key `pem`, by his own clock.

    Args:
        headers: of the request.
        pem: what `shown_key` found, once it is known to be somebody's.
        now: our time, with a zone.

    Raises:
        Refused: the signature does not hold, or the clocks are too far apart.
    """
    timestamp = headers[TIME_HEADER]
    try:
        key = load_pem_public_key(pem)
        assert isinstance(key, ec.EllipticCurvePublicKey), "the list holds no others"
        key.verify(_decoded(headers, SIGNATURE_HEADER), timestamp.encode(), ec.ECDSA(SHA256()))
        at = dt.datetime.fromisoformat(timestamp)
        ahead = (at - now).total_seconds()
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise Refused(
            Reason.SIGNATURE,
            "a request must be signed by the key that it shows, this one is not; give the key that belongs to it",
        ) from error
    if not -SLOW_SECONDS < ahead < FAST_SECONDS:
        raise Refused(
            Reason.CLOCK,
            f"a node's clock must be at most {FAST_SECONDS:g} s fast and {SLOW_SECONDS:g} s slow, it is "
            f"{abs(ahead):.0f} s {'fast' if ahead > 0 else 'slow'}; set both machines' clocks by NTP",
        )
    return at


def _decoded(headers: Mapping[str, str], name: str) -> bytes:
    text = headers[name]
    try:
        return b64decode(text[:_LONGEST], validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refused(
            Reason.SIGNATURE, f"the header {name} must be base64, got something else; use Flower 1.41's SuperNode"
        ) from error
