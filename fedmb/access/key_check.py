"""Looks through a folder of keys: dates, who signed what, who may read what."""

from __future__ import annotations

import datetime as dt
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.access.certificates import SOON_DAYS, certificate, is_signed, key_of_certificate, validity
from fedmb.access.new_keys import AUTHORITY, SERVER
from fedmb.access.node_keys import OTHERS, fingerprint, private_key, public_keys
from fedmb.access.signed_headers import pem_of
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography import x509

_RENEW = "make a new one with `fedmb keys server`"


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """One file that was looked at."""

    name: str
    found: str
    advice: str = ""
    """Empty when there is nothing to do."""
    is_usable: bool = True
    """False where nothing works with it."""


def look_through(folder: Path, now: dt.datetime | None = None) -> list[KeyFinding]:
    """What is in `folder` and below: certificates, private keys, nodes' public keys.

    Args:
        folder: that `fedmb keys` wrote to.
        now: the time, with a zone; the present one by default.

    Raises:
        SettingsError: there is no such folder, or no key in it.
    """
    if not folder.is_dir():
        raise SettingsError(f"keys must be in a folder, got {folder}; make some with `fedmb keys server HOST`")
    now = now or dt.datetime.now(dt.UTC)
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".crt", ".key", ".pub"} and path.is_file())
    found = [one for path in files for one in _of(path, folder, now)]
    if not found:
        raise SettingsError(
            f"a folder of keys must have some, {folder} has none; make some with `fedmb keys server HOST`"
        )
    return found


def _of(path: Path, folder: Path, now: dt.datetime) -> Iterator[KeyFinding]:
    name = str(path.relative_to(folder))
    try:
        if path.suffix == ".crt":
            yield from _certificate(path, name, now)
        elif path.suffix == ".pub":
            ((pem, node),) = public_keys(path).items()
            yield KeyFinding(name, f"node {node}, {fingerprint(pem)}")
        elif path.with_suffix(".crt").exists():
            is_pair = key_of_certificate(path).public_key() == certificate(path.with_suffix(".crt")).public_key()
            advice = "" if is_pair else f"name the pair: {path.stem}.crt belongs to another key"
            yield KeyFinding(name, f"private key, {_mode(path)}", advice, is_usable=is_pair)
        else:
            yield KeyFinding(
                name, f"node's private key {fingerprint(pem_of(private_key(path).public_key()))}, {_mode(path)}"
            )
    except (SettingsError, ValueError) as error:
        said, _, advice = str(error).rpartition("; ")
        yield KeyFinding(name, said or str(error), advice or "one key in each .pub file", is_usable=False)
    if (
        path.name == f"{AUTHORITY}.key"
        and (path.parent / f"{SERVER}.key").exists()
        and not path.stat().st_mode & OTHERS
    ):
        yield KeyFinding(
            name,
            "beside the server's key",
            "keep it on a machine that serves nobody: it makes servers that clients trust",
        )


def _certificate(path: Path, name: str, now: dt.datetime) -> Iterator[KeyFinding]:
    found = certificate(path)
    days = (found.not_valid_after_utc - now).days
    what = f"{_subject(found)}, until {found.not_valid_after_utc:%Y-%m-%d} ({days} days)"
    if complaint := validity(found, now):
        said, _, advice = complaint.partition("; ")
        yield KeyFinding(name, f"{_subject(found)}, {said}", advice, is_usable=False)
        return
    yield KeyFinding(name, what, _RENEW if days < SOON_DAYS else "")
    authority = path.with_name(f"{AUTHORITY}.crt")
    if path != authority and authority.exists() and not is_signed(found, certificate(authority)):
        yield KeyFinding(name, f"not signed by {authority.name}", _RENEW, is_usable=False)


def _subject(found: x509.Certificate) -> str:
    from cryptography.x509 import ExtensionNotFound, SubjectAlternativeName

    try:
        names = found.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return found.subject.rfc4514_string().removeprefix("CN=")
    return ", ".join(str(one.value) for one in names)


def _mode(path: Path) -> str:
    return f"mode {stat.S_IMODE(path.stat().st_mode):04o}"
