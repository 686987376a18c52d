"""New keys and certificates: an authority for one federation, its server's certificate, nodes' keys.

Private files are their owner's alone (mode 0600) from the moment they exist, and nothing is ever overwritten.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmb.access.certificates import certificate, validity
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

AUTHORITY, SERVER = "authority", "server"
AUTHORITY_DAYS = 1825
SERVER_DAYS = 365
_BACKDATED = dt.timedelta(hours=1)  # for machines whose clock is slow
_PRIVATE, _PUBLIC = 0o600, 0o644
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def make_authority(folder: Path, days: int = AUTHORITY_DAYS) -> x509.Certificate:
    """Write `authority.crt` and `authority.key`: who holds the key can make servers that your clients trust.

    Raises:
        SettingsError: one of them is there, or the days are not positive.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedmb authority")])
    made = (
        _builder(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(folder, {f"{AUTHORITY}.key": (_pem(key), _PRIVATE), f"{AUTHORITY}.crt": (_pem(made), _PUBLIC)})
    return made


def make_server(folder: Path, hosts: Sequence[str], days: int = SERVER_DAYS) -> x509.Certificate:
    """Write `server.crt` and `server.key`, signed by the authority in `folder`, which is made if there is none.

    Args:
        folder: of the authority and of what is written.
        hosts: names and addresses by which clients reach the server; loopback is added.
        days: that it is valid; never longer than the authority.

    Raises:
        SettingsError: one of the files is there, a host is none, or the authority cannot be used.
    """
    if not hosts:
        raise SettingsError("a certificate is for hosts, got none; name each by which clients reach the server")
    names = [_alternative(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"])]
    _check_absent(folder, [f"{SERVER}.key", f"{SERVER}.crt"])
    if not any((folder / f"{AUTHORITY}.{part}").exists() for part in ("crt", "key")):
        make_authority(folder)
    authority, signer = certificate(folder / f"{AUTHORITY}.crt"), _signer(folder / f"{AUTHORITY}.key")
    if complaint := validity(authority, dt.datetime.now(dt.UTC)):
        raise SettingsError(f"an authority must be valid to sign, {folder / AUTHORITY}.crt {complaint}")
    key = ec.generate_private_key(ec.SECP384R1())
    made = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]), authority.subject, key, days, authority
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA384())
    )
    _write(folder, {f"{SERVER}.key": (_pem(key), _PRIVATE), f"{SERVER}.crt": (_pem(made), _PUBLIC)})
    return made


def make_node(folder: Path, name: str) -> str:
    """Write `NAME.key`, which stays with the client, and `NAME.pub`, which the server gets; the public line.

    Raises:
        SettingsError: one of them is there, or the name is none.
    """
    if not _NODE.fullmatch(name):
        raise SettingsError(f"a node's name is letters, digits, _ . and -, at most 64, got {name!r}; choose another")
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + f" {name}\n"
    _write(folder, {f"{name}.key": (private, _PRIVATE), f"{name}.pub": (public.encode(), _PUBLIC)})
    return public


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    authority: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    if days < 1:
        raise SettingsError(f"a certificate must be valid for a day at least, got {days}; raise --days")
    now = dt.datetime.now(dt.UTC)
    until = now + dt.timedelta(days=days)
    signer = authority.public_key() if authority else key.public_key()
    assert isinstance(signer, ec.EllipticCurvePublicKey), "_signer has looked at the pair"
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(min(until, authority.not_valid_after_utc) if authority else until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise SettingsError(
                f"a host is a name like fl.example.org or an address like 10.0.0.5, got {host!r}; leave scheme and "
                "port out"
            ) from None
        return x509.DNSName(host)


def _signer(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"the authority's key must be there to sign, {path} cannot be read ({error}); bring it back, or choose "
            "another --into"
        ) from error
    own = certificate(path.with_suffix(".crt"))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != own.public_key():
        raise SettingsError(
            f"an authority is an EC key and its certificate, {path} is not that of {path.stem}.crt; name the pair"
        )
    return key


def _pem(what: ec.EllipticCurvePrivateKey | x509.Certificate) -> bytes:
    if isinstance(what, x509.Certificate):
        return what.public_bytes(Encoding.PEM)
    return what.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _check_absent(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).exists():
            raise SettingsError(
                f"a key is never overwritten, {folder / name} is there; move it away, or choose another --into"
            )


def _write(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write all of the files or none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_absent(folder, list(files))
    for name, (content, mode) in files.items():
        number = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(number, "wb") as file:
            file.write(content)
