"""Keys of nodes as OpenSSH writes them: a client's private one, and the public ones that a server lets in."""

from __future__ import annotations

import hashlib
import logging
import stat
import time
from base64 import b64encode
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedmb.access.signed_headers import pem_of
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # Flower takes NIST's; fedmb makes P-384
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOOK_SECONDS = 1.0  # between two looks at the list
_MAKE = "make one with `fedmb keys node NAME`"


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key.

    Raises:
        SettingsError: the file cannot be read, others may read it, or it holds no such key.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"a node's key must be a file that can be read, got {path} ({error.strerror}); {_MAKE}"
        ) from error
    if mode & OTHERS:
        raise SettingsError(
            f"a private key must be its owner's alone, {path} has mode {stat.S_IMODE(mode):04o}; chmod 600 {path}"
        )
    try:
        key = load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"a node's key must be a private OpenSSH key without password, {path} is none; {_MAKE}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVES):
        raise SettingsError(f"a node's key must be an EC key of NIST's, as Flower wants it, {path} is another; {_MAKE}")
    return key


def public_keys(place: Path) -> dict[bytes, str]:
    """PEM -> name of every key in a folder's `.pub` files, or in one file with a key on each line.

    A key's name is its comment, or its file's name; lines that begin with # are notes.

    Raises:
        SettingsError: there is none, or one is broken or listed twice.
    """
    found: dict[bytes, str] = {}
    for file in _files(place):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            pem, name = _public_key(line, f"{file}, line {number}"), line.split(maxsplit=2)[2:]
            own = name[0].strip() if name else file.stem
            if pem in found:
                raise SettingsError(f"a key must be listed once, {file} has that of {found[pem]}; remove one")
            found[pem] = own
    if not found:
        raise SettingsError(
            f"--node-keys must hold a public key of each node, {place} has none; copy the .pub files there that "
            "`fedmb keys node` makes"
        )
    return found


def fingerprint(pem: bytes) -> str:
    """A public key as `ssh-keygen -l` shows it; "unreadable" for what is no key."""
    try:
        key = load_pem_public_key(pem)
        line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (ValueError, UnsupportedAlgorithm):
        return "unreadable"
    from base64 import b64decode

    digest = hashlib.sha256(b64decode(line.split()[1])).digest()
    return f"SHA256:{b64encode(digest).decode().rstrip('=')}"


class NodeKeys:
    """The list of keys that are let in, read again when its files change: no restart to add or remove a node.

    Args:
        place: as in `public_keys`.

    Raises:
        SettingsError: as in `public_keys`. Later a broken list only leaves the old one in force, with a warning.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._names = public_keys(place)
        self._stamp = self._stamped()
        self._looked = time.monotonic()

    @property
    def names(self) -> Mapping[bytes, str]:
        """PEM -> name, as the files say now."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._names = public_keys(self._place)
                    log.info("node keys read place=%s keys=%d", self._place, len(self._names))
                except (SettingsError, OSError) as error:
                    log.warning("node keys not read, the ones before hold on: %s", error)
        return self._names

    def _stamped(self) -> tuple[tuple[str, int, int], ...]:
        found = []
        try:
            for file in _files(self._place):
                status = file.stat()
                found.append((file.name, status.st_mtime_ns, status.st_size))
        except (OSError, SettingsError):
            return ()
        return tuple(found)


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(place.glob("*.pub"))
    if place.is_file():
        return [place]
    raise SettingsError(
        f"--node-keys must be a folder of .pub files, or a file with a key on each line, got {place}; check the path"
    )


def _public_key(line: str, where: str) -> bytes:
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"a public key must be in OpenSSH's form, {where} is not; copy the .pub file anew"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise SettingsError(f"a node's key must be an EC key of NIST's, {where} has another; {_MAKE}")
    return pem_of(key)
