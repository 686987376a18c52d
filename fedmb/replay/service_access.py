"""Where a replay service listens and who may come in; how a client reaches it and proves who it is.

Only this machine's own loopback may do without TLS and a token. A token is a secret text in a file that is not for
everybody to read; it never travels unencrypted beyond this machine, and is compared in constant time.
"""

from __future__ import annotations

import hmac
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import grpc

LEAST_TOKEN, MOST_TOKEN = 16, 4096  # characters; fewer can be guessed
TOKEN_KEY = "authorization"  # noqa: S105  # the name of a header
_SCHEME = "Bearer "
_OTHERS = stat.S_IRWXO | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Listening:
    """The address of a service and its secrets.

    Raises:
        SettingsError: beyond loopback without TLS or token, TLS is half-given, or a file cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0 for any that is free."""
    certificate: Path | None = None
    """PEM certificate of the service."""
    key: Path | None = None
    """PEM private key."""
    token_file: Path | None = None
    """File with the token that clients must show."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("TLS needs a certificate and its key, got one of them; give both", key="certificate")
        if not is_loopback(self.host) and (self.certificate is None or self.token_file is None):
            lacking = "certificate" if self.certificate is None else "token_file"
            raise SettingsError(
                f"beyond loopback a replay service needs TLS and a token, got host {self.host} and no {lacking}; give "
                "certificate, key and token_file, or listen on 127.0.0.1",
                key=lacking,
            )
        if self.token_file is not None:
            read_token(self.token_file)

    def bind(self, server: grpc.Server) -> str:
        """Let `server` listen; the address that it has, `host:port`.

        Raises:
            SettingsError: the port is taken, or the certificate and key are none.
        """
        import grpc

        wanted = address(self.host, self.port)
        try:
            if self.certificate is None or self.key is None:
                port = server.add_insecure_port(wanted)
            else:
                pair = (_content(self.key, "key"), _content(self.certificate, "certificate"))
                port = server.add_secure_port(wanted, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            reason = "TLS takes its files, or the port is taken" if self.certificate else "the port is taken"
            raise SettingsError(
                f"a replay service must be able to listen, got {wanted}: {reason}; choose another port, 0 for any",
                key="port",
            ) from error
        return address(self.host, port)

    def bearer(self) -> bytes | None:
        """The header that a client must show; None where everybody on this machine may come."""
        return None if self.token_file is None else _header(read_token(self.token_file)).encode()


@dataclass(frozen=True, slots=True)
class Reaching:
    """The address of a service as a client knows it.

    Raises:
        SettingsError: the address is not `host:port`, or a file cannot be used.
    """

    address: str
    """`host:port`."""
    root_certificates: Path | None = None
    """PEM certificates that vouch for the service; None trusts the system's, and on loopback does without TLS."""
    token_file: Path | None = None
    """File with the token to show."""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not (host and "/" not in host and port.isascii() and port.isdecimal() and 1 <= int(port) < 1 << 16):
            raise SettingsError(f"a replay service is written HOST:PORT, got {self.address!r}; like 127.0.0.1:8400")
        if self.token_file is not None:
            read_token(self.token_file)

    @property
    def is_plain(self) -> bool:
        """True where the connection is not encrypted, since it does not leave this machine."""
        return self.root_certificates is None and is_loopback(self.address.rpartition(":")[0].strip("[]"))

    def channel(self, options: Sequence[tuple[str, int]]) -> grpc.Channel:
        """A connection, made when it is first used."""
        import grpc

        if self.is_plain:
            return grpc.insecure_channel(self.address, options=options)
        roots = None if self.root_certificates is None else _content(self.root_certificates, "root_certificates")
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(roots), options=options)

    def metadata(self) -> list[tuple[str, str]]:
        """What proves who we are."""
        return [] if self.token_file is None else [(TOKEN_KEY, _header(read_token(self.token_file)))]


def admits(bearer: bytes | None, shown: str | bytes | None) -> bool:
    """Whether the header that a client showed is the right one; takes equally long however much of it is right."""
    if bearer is None:
        return True
    return hmac.compare_digest(bearer, shown.encode() if isinstance(shown, str) else shown or b"")


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        SettingsError: the file cannot be read, others can read it, or it holds no token.
    """
    token = _content(path, "token_file").decode("ascii", "replace").strip()
    if path.stat().st_mode & _OTHERS:
        raise SettingsError(
            f"a token's file must be its owner's and group's to read, {path} is others' too; chmod 600",
            key="token_file",
        )
    if not LEAST_TOKEN <= len(token) <= MOST_TOKEN or not token.isprintable() or not token.isascii() or " " in token:
        raise SettingsError(
            f"a token must be {LEAST_TOKEN} to {MOST_TOKEN} characters of ASCII in one line, {path} holds none; make "
            "one with `openssl rand -hex 32`",
            key="token_file",
        )
    return token


def is_loopback(host: str) -> bool:
    """True when `host` is this machine and nobody else can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _header(token: str) -> str:
    return _SCHEME + token


def _content(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{key} must be a file, got {path}: {error.strerror}; check the path", key=key) from error
