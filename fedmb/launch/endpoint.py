"""Where a server listens and how a client reaches it: only this machine's own loopback may do without TLS."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PORT = 8000  # Flower's own
LAST_PORT = 65535
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only recognised here, to connect to oneself


@dataclass(frozen=True, slots=True)
class Listen:
    """The one port of a server.

    Raises:
        SettingsError: TLS is half-given or a file is missing, or the host is not loopback and there is no TLS.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    """PEM certificate of the server."""
    key: Path | None = None
    """PEM private key of the server; only its path travels on command lines."""
    authority: Path | None = None
    """PEM certificate of the authority that signed it."""

    def __post_init__(self) -> None:
        files = {
            "--ssl-certfile": self.certificate,
            "--ssl-keyfile": self.key,
            "--ssl-ca-certfile": self.authority,
        }
        absent = [flag for flag, path in files.items() if path is None]
        if 0 < len(absent) < len(files):
            raise SettingsError(f"TLS needs {', '.join(files)}, got none for {', '.join(absent)}; give it too")
        for flag, path in files.items():
            _check_file(flag, path)
        if absent and not is_loopback(self.host):
            raise SettingsError(
                f"without TLS a server must listen on loopback, got host {self.host}; give --ssl-certfile, "
                "--ssl-keyfile and --ssl-ca-certfile, or leave --host out"
            )

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
        SettingsError: the address is not `host:port`, or the certificates' file is missing.
    """

    address: str
    """`host:port`."""
    root_certificates: Path | None = None
    """PEM certificates that vouch for the server; None trusts the system's, and on loopback does without TLS."""

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not (colon and host and port.isascii() and port.isdecimal() and 1 <= int(port) <= LAST_PORT):
            raise SettingsError(f"a server is written HOST:PORT, got {self.address!r}; like 127.0.0.1:{DEFAULT_PORT}")
        _check_file("--root-certificates", self.root_certificates)

    @property
    def insecure(self) -> bool:
        """True when the connection needs no TLS because it does not leave this machine."""
        return self.root_certificates is None and is_loopback(self.address.rpartition(":")[0].strip("[]"))


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
