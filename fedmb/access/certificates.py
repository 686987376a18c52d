"""Certificates as files: what a server needs before it listens, said in words before a library says it in codes."""

from __future__ import annotations

import datetime as dt
import stat
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedmb.access.node_keys import OTHERS
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SOON_DAYS = 14  # left to a certificate, below which somebody should be told


def certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        SettingsError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"a certificate must be a PEM file, {path} is none ({error}); check the path") from error


def key_of_certificate(path: Path) -> PrivateKeyTypes:
    """A private key in PEM.

    Raises:
        SettingsError: there is none, it has a password, or others may read it.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
        key = load_pem_private_key(content, None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"a server's key must be a PEM file without password, {path} is none ({error}); check the path"
        ) from error
    if mode & OTHERS:
        raise SettingsError(
            f"a private key must be its owner's alone, {path} has mode {stat.S_IMODE(mode):04o}; chmod 600 {path}"
        )
    return key


def check_server(path: Path, key: Path, authority: Path | None, now: dt.datetime | None = None) -> int:
    """Whole days that a server's certificate is still good for.

    Args:
        path: of the certificate.
        key: path of its private key.
        authority: path of the certificate of who signed it; None for one that machines know.
        now: the time, with a zone; the present one by default.

    Raises:
        SettingsError: it is not valid now, is not that key's, or not signed by `authority`.
    """
    found = certificate(path)
    now = now or dt.datetime.now(dt.UTC)
    if key_of_certificate(key).public_key() != found.public_key():
        raise SettingsError(f"a certificate and its key must belong together, {path} and {key} do not; name the pair")
    if complaint := validity(found, now):
        raise SettingsError(f"a server's certificate must be valid, {path} {complaint}")
    if authority is not None and not is_signed(found, certificate(authority)):
        raise SettingsError(
            f"a server's certificate must be signed by its authority, {path} is not by {authority}; name the right one"
        )
    return (found.not_valid_after_utc - now).days


def validity(found: x509.Certificate, now: dt.datetime) -> str:
    """What is wrong with a certificate's dates, and the way out; empty if nothing is."""
    if now > found.not_valid_after_utc:
        return f"expired on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; make a new one with `fedmb keys server`"
    if now < found.not_valid_before_utc:
        return f"begins on {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; set this machine's clock, or wait"
    return ""


def is_signed(found: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed `found`; names and signature are compared."""
    try:
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
