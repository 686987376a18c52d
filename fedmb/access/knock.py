"""A client asks at the door before a library does: who refuses whom, and why, in one line.

A SuperNode that is refused tries for ever, or ends with a line of its own that names neither key nor way out.
"""

from __future__ import annotations

import datetime as dt
import http.client
import logging
import ssl
from typing import TYPE_CHECKING

from fedmb.access.refusal import Reason, refused_by
from fedmb.access.server_clock import seconds_ahead
from fedmb.errors import AccessDenied, SettingsError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from threading import Event

    from fedmb.access.refusal import Refused

log = logging.getLogger(__name__)

PATH = "/v1/fleet/knock"
ANSWER_SECONDS = 4.0  # a refusal is to be read within 5 s of the start
AGAIN_SECONDS = 1.0  # between two knocks at a server that is not there
_LATER = {Reason.EARLY, Reason.SUPERLINK, Reason.SLOW}  # what time may mend
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64  # OpenSSL's numbers
_ANSWER_BYTES = 65_536
MEDIA_TYPE = "application/protobuf"  # of every message to Flower


def knock(host: str, port: int, *, tls: bool, roots: Path | None = None, key: Path | None = None) -> float:
    """Ask whether this client is let in; by how many seconds ahead of our clock it is to sign (`server_clock`).

    A server without a door answers something else than a refusal, which is as good.

    Args:
        host: of the server.
        port: of the server.
        tls: whether to ask over TLS.
        roots: PEM certificates that vouch for the server; None for the system's.
        key: the node's private key; None to come without.

    Raises:
        AccessDenied: one side refuses the other, and waiting does not help.
        Unreachable: there is no answer; it may come later.
        SettingsError: `roots` or `key` cannot be used.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection = connection_to(host, port, tls=tls, roots=roots)
    try:
        refused, ahead = _answer(connection, key)
        if refused is not None and refused.reason is Reason.CLOCK and ahead:
            refused, _ = _answer(connection, key, ahead)
    except ssl.SSLCertVerificationError as error:
        raise _mistrusted(place, roots, error) from error
    except ssl.SSLError as error:
        raise AccessDenied(
            f"the server at {place} must speak TLS, it answers otherwise ({error.reason}); start it with "
            "--ssl-certfile and --ssl-keyfile, or on loopback leave --root-certificates and --node-key out"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if not tls and speaks_tls(host, port):
            raise AccessDenied(
                f"the server at {place} speaks TLS, this client does not; give --root-certificates and --node-key"
            ) from error
        raise Unreachable(
            f"a server must answer at {place}, got {error or type(error).__name__}; start it, or mend --server"
        ) from error
    finally:
        connection.close()
    if refused is not None and refused.reason in _LATER:
        raise Unreachable(refused.sentence)
    if refused is not None and refused.reason is not Reason.PATH:
        raise AccessDenied(refused.sentence)
    return ahead


def _answer(
    connection: http.client.HTTPConnection, key: Path | None, ahead: float = 0.0
) -> tuple[Refused | None, float]:
    """What the door says to us, and how far the server's clock is ahead of ours."""
    connection.request("POST", PATH, headers={"content-length": "0"} | proof(key, ahead))
    answer = connection.getresponse()
    content, now = answer.read(_ANSWER_BYTES), dt.datetime.now(dt.UTC)
    refused = refused_by(content) if answer.status >= http.HTTPStatus.BAD_REQUEST else None
    return refused, seconds_ahead(answer.headers["date"], now)


def wait_until_let_in(
    host: str,
    port: int,
    stop: Event,
    on_knock: Callable[[], None] = lambda: None,
    *,
    tls: bool,
    roots: Path | None = None,
    key: Path | None = None,
) -> float:
    """Knock until the door opens, or `stop` is set; what `knock` answers. `on_knock` is called before each time.

    Raises:
        AccessDenied: as in `knock`.
        SettingsError: as in `knock`.
    """
    said = ""
    while not stop.is_set():
        on_knock()
        try:
            return knock(host, port, tls=tls, roots=roots, key=key)
        except Unreachable as error:
            if said != (said := str(error)):
                log.warning("waiting for the server: %s", error)
            stop.wait(AGAIN_SECONDS)
    return 0.0


def proof(key: Path | None, ahead: float = 0.0) -> dict[str, str]:
    """Headers that are signed now, by a clock so many seconds ahead, with a node's private key; none without one."""
    if key is None:
        return {}
    from fedmb.access.node_keys import private_key
    from fedmb.access.signed_headers import signed

    return signed(private_key(key), dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead))


def connection_to(host: str, port: int, *, tls: bool, roots: Path | None) -> http.client.HTTPConnection:
    """A connection that is not open yet, and waits `ANSWER_SECONDS` for each answer."""
    if tls:
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=_context(roots))
    return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)


def posted(
    connection: http.client.HTTPConnection, path: str, content: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and content of the answer to one of Flower's messages; closes the connection.

    Raises:
        OSError, http.client.HTTPException: nobody answers.
    """
    try:
        connection.request("POST", path, content, {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def speaks_tls(host: str, port: int) -> bool:
    """Whether somebody answers a handshake; whose certificate it is does not matter here."""
    import socket

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _context(roots: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=roots)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"--root-certificates must be a PEM file of certificates, {roots} is none ({error}); name the authority's"
        ) from error


def _mistrusted(place: str, roots: Path | None, error: ssl.SSLCertVerificationError) -> AccessDenied:
    trusted = f"--root-certificates {roots}" if roots else "an authority that this system knows"
    if error.verify_code == _EXPIRED:
        said = "has expired; let the server have a new one, made with `fedmb keys server`"
    elif error.verify_code == _NOT_YET_VALID:
        said = "is not valid yet; set this machine's clock by NTP"
    elif error.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
        said = f"is for another host ({error.verify_message.rstrip('.')}); name the host as the certificate does"
    else:
        said = f"is not signed by {trusted} ({error.verify_message}); name the file of the authority that signed it"
    return AccessDenied(f"the certificate of {place} must be one to trust, and {said}")
