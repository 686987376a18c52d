"""Where a server listens and how a client reaches it: only this machine's own loopback may do without TLS and keys."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fedmb.access.knock import knock, wait_until_let_in
from fedmb.access.leaving import leave
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Event

log = logging.getLogger(__name__)

DEFAULT_PORT = 8000  # Flower's own
LAST_PORT = 65535
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only recognised here, to connect to oneself


@dataclass(frozen=True, slots=True)
class Listen:
    """The one port of a server that others may reach.

    Raises:
        SettingsError: TLS is half-given, a file is missing, or the host is not loopback and TLS or keys are absent.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    """PEM certificate of the server."""
    key: Path | None = None
    """PEM private key of the server; only its path travels on command lines."""
    authority: Path | None = None
    """PEM certificate of the authority that signed it; where it is given, that is checked."""
    node_keys: Path | None = None
    """Public keys of the nodes that are let in: a folder of .pub files, or a file with a key on each line."""

    def __post_init__(self) -> None:
        pair = {"--ssl-certfile": self.certificate, "--ssl-keyfile": self.key}
        more = {"--ssl-ca-certfile": self.authority, "--node-keys": self.node_keys}
        absent = [flag for flag, path in pair.items() if path is None]
        given = [flag for flag, path in (pair | more).items() if path is not None]
        if absent and given:
            raise SettingsError(f"{given[0]} needs {' and '.join(pair)}, got none for {', '.join(absent)}; give it too")
        for flag, path in (pair | {"--ssl-ca-certfile": self.authority}).items():
            _check_file(flag, path)
        if is_loopback(self.host):
            return
        if absent:
            raise SettingsError(
                f"without TLS a server must listen on loopback, got host {self.host}; give --ssl-certfile, "
                "--ssl-keyfile and --node-keys (`fedmb keys` makes them), or leave --host out"
            )
        if self.node_keys is None:
            raise SettingsError(
                f"beyond loopback a server must know its nodes by their keys, got host {self.host} without; give "
                "--node-keys FOLDER with the .pub files of `fedmb keys node`"
            )

    def check(self) -> None:
        """Read the files, and tell of a certificate that ends soon.

        Raises:
            SettingsError: a certificate, its key or the nodes' keys cannot be used.
        """
        if self.certificate is not None and self.key is not None:
            from fedmb.access.certificates import SOON_DAYS, check_server

            days = check_server(self.certificate, self.key, self.authority)
            if days < SOON_DAYS:
                log.warning("certificate ends soon file=%s days=%d", self.certificate, days)
        if self.node_keys is not None:
            from fedmb.access.node_keys import public_keys

            log.info("node keys read place=%s keys=%d", self.node_keys, len(public_keys(self.node_keys)))

    @property
    def tls(self) -> bool:
        """True when connections are encrypted."""
        return self.certificate is not None

    @property
    def own_address(self) -> str:
        """`host:port` by which this machine reaches the server."""
        return address(_ANY.get(self.host, self.host), self.port)


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a client talks to.

    Raises:
        SettingsError: the address is not `host:port`, a file is missing, or the server is not on loopback and there is
            no key.
    """

    address: str
    """`host:port`."""
    root_certificates: Path | None = None
    """PEM certificates that vouch for the server; None trusts the system's, and on loopback does without TLS."""
    node_key: Path | None = None
    """The client's private key, by which the server knows it; only its path travels on command lines."""

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not (colon and host and port.isascii() and port.isdecimal() and 1 <= int(port) <= LAST_PORT):
            raise SettingsError(f"a server is written HOST:PORT, got {self.address!r}; like 127.0.0.1:{DEFAULT_PORT}")
        _check_file("--root-certificates", self.root_certificates)
        _check_file("--node-key", self.node_key)
        if self.insecure and self.node_key is not None:
            raise SettingsError(
                "a node's key needs TLS, got --node-key for a server on loopback without; give --root-certificates, "
                "or leave it out"
            )
        if not self.insecure and not is_loopback(self.host) and self.node_key is None:
            raise SettingsError(
                f"beyond loopback a client must prove who it is, got {self.address} and no key; give --node-key, made "
                "with `fedmb keys node`"
            )

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    @property
    def insecure(self) -> bool:
        """True when the connection needs no TLS because it does not leave this machine."""
        return self.root_certificates is None and is_loopback(self.host)

    def knock(self) -> float:
        """Ask whether it lets us in; answer and errors are those of `fedmb.access.knock`."""
        return knock(self.host, self.port, tls=not self.insecure, roots=self.root_certificates, key=self.node_key)

    def leave(self, node: int, ahead: float) -> bool:
        """Say goodbye for a node of ours that was killed, as `fedmb.access.leaving`."""
        return leave(
            *(node, self.host, self.port),
            tls=not self.insecure,
            roots=self.root_certificates,
            key=self.node_key,
            ahead=ahead,
        )

    def wait_until_let_in(self, stop: Event, on_knock: Callable[[], None] = lambda: None) -> float:
        """Knock until it does, or `stop` is set, calling `on_knock` each time; answer and errors are `knock`'s."""
        return wait_until_let_in(
            *(self.host, self.port, stop, on_knock),
            tls=not self.insecure,
            roots=self.root_certificates,
            key=self.node_key,
        )


def is_loopback(host: str) -> bool:
    """True when `host` is this machine and nobody else can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def usable_port(host: str, port: int) -> int:
    """`port` if nobody listens there; for 0 one that is free now.

    Raises:
        SettingsError: the port is taken or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as probe:
            number: int = probe.getsockname()[1]
            return number
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"a port must be free to listen on, got {address(host, port)}: {error}; choose another --port, 0 for any"
        ) from error


def _check_file(flag: str, path: Path | None) -> None:
    if path is not None and not path.is_file():
        raise SettingsError(f"{flag} must be an existing file, got {path}; check the path")
