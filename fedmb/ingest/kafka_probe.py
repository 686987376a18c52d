"""Just enough of Kafka's protocol on a plain socket to learn why a client cannot get in.

    request  = int32 length, int16 api, int16 version, int32 correlation, string client, body
    response = int32 length, int32 correlation, body

Versions are the oldest that brokers of Kafka 1.0 to 4.x answer, so that no version has to be agreed on.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

METADATA, SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 3, 17, 18, 36
"""Numbers of the requests that are sent here."""
UNSUPPORTED_MECHANISM, NO_SASL_HERE, UNSUPPORTED_VERSION, AUTHENTICATION_FAILED = 33, 34, 35, 58
"""Numbers of the errors that are told apart here."""

_CORRELATION = 7
_SHORTEST = 4  # bytes of an answer: its correlation
_LONGEST = 1 << 20  # bytes of an answer; a peer that announces more speaks something else
_LEAST_WAIT = 0.05  # seconds; a socket's timeout of 0 would mean not to wait at all


class NotKafka(Exception):  # noqa: N818  # the condition's name; it never leaves the diagnosis
    """The peer answered, and not as a broker does."""


class Handshake(NamedTuple):
    """A broker's answer to the name of a mechanism."""

    error: int
    mechanisms: tuple[str, ...]
    """Those that it takes."""


class Wire:
    """One connection to a broker.

    Args:
        server: host:port.
        deadline: of `time.monotonic`, for everything that is done with it.
        tls: encrypt so; the name in `server` must be the certificate's.

    Raises:
        socket.gaierror: the name does not resolve.
        ssl.SSLError: there is no agreement on encryption.
        OSError: it cannot be reached; TimeoutError where nothing answers.
    """

    def __init__(self, server: str, *, deadline: float, tls: ssl.SSLContext | None = None) -> None:
        self._deadline = deadline
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        plain = socket.create_connection((host, int(port)), timeout=self._remaining())
        try:
            plain.settimeout(self._remaining())
            self._socket = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def api_versions(self) -> None:
        """Ask which versions the broker speaks; any well-formed answer will do.

        Raises:
            NotKafka: the answer is another protocol's.
            OSError: there is none.
        """
        answer = _Reader(self._asked(API_VERSIONS, 0, b""))
        if answer.int16() not in {0, UNSUPPORTED_VERSION}:
            raise NotKafka

    def sasl_handshake(self, mechanism: str) -> Handshake:
        """Name a mechanism."""
        answer = _Reader(self._asked(SASL_HANDSHAKE, 1, _string(mechanism)))
        return Handshake(answer.int16(), tuple(answer.string() for _ in range(answer.count())))

    def sasl_authenticate(self, token: bytes) -> tuple[int, str, bytes]:
        """Send a mechanism's token; the error, its text and the broker's token."""
        answer = _Reader(self._asked(SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token))
        return answer.int16(), answer.string(), answer.token()

    def advertised(self) -> tuple[str, ...]:
        """host:port of every broker of the cluster, as the brokers tell clients."""
        answer = _Reader(self._asked(METADATA, 1, struct.pack(">i", 0)))
        servers = []
        for _ in range(answer.count()):
            answer.int32()  # the broker's number
            host, port = answer.string(), answer.int32()
            answer.string()  # its rack
            servers.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return tuple(servers)

    def _asked(self, api: int, version: int, body: bytes) -> bytes:
        message = struct.pack(">hhi", api, version, _CORRELATION) + _string("fedmb") + body
        self._socket.settimeout(self._remaining())
        self._socket.sendall(struct.pack(">i", len(message)) + message)
        (length,) = struct.unpack(">i", self._received(4))
        if not _SHORTEST <= length <= _LONGEST:
            raise NotKafka
        answer = self._received(length)
        if struct.unpack_from(">i", answer) != (_CORRELATION,):
            raise NotKafka
        return answer[4:]

    def _received(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._socket.settimeout(self._remaining())
            part = self._socket.recv(count - len(found))
            if not part:
                raise ConnectionResetError("closed by the peer")
            found += part
        return bytes(found)

    def _remaining(self) -> float:
        return max(_LEAST_WAIT, self._deadline - time.monotonic())


def speaks_tls(server: str, *, deadline: float) -> bool:
    """True when the port begins an encrypted conversation, with whatever certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with Wire(server, deadline=deadline, tls=context):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it wants a certificate of ours, or another version: TLS all the same
    except OSError:
        return False


def speaks_plainly(server: str, *, deadline: float) -> bool:
    """True when the port answers Kafka's protocol without encryption."""
    return _succeeds(lambda wire: wire.api_versions(), server, deadline)


def sasl_mechanisms(server: str, *, deadline: float, tls: ssl.SSLContext | None) -> tuple[str, ...]:
    """Mechanisms that the port asks for; none where it wants no proof of who we are."""
    try:
        with Wire(server, deadline=deadline, tls=tls) as wire:
            answer = wire.sasl_handshake("NONE")
            return answer.mechanisms if answer.error == UNSUPPORTED_MECHANISM else ()
    except (OSError, NotKafka):
        return ()


def _succeeds(ask: Callable[[Wire], None], server: str, deadline: float) -> bool:
    try:
        with Wire(server, deadline=deadline) as wire:
            ask(wire)
            return True
    except (OSError, NotKafka):
        return False


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


class _Reader:
    """Fields of an answer, one after the other.

    Raises:
        NotKafka: the answer ends too early.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def int16(self) -> int:
        return self._number(">h", 2)

    def int32(self) -> int:
        return self._number(">i", 4)

    def count(self) -> int:
        """Of an array; one that is longer than the answer is none."""
        count = self.int32()
        if not 0 <= count <= len(self._data):
            raise NotKafka
        return count

    def string(self) -> str:
        return self._part(self.int16()).decode(errors="replace")

    def token(self) -> bytes:
        return self._part(self.int32())

    def _number(self, form: str, size: int) -> int:
        number: int = struct.unpack(form, self._part(size))[0]
        return number

    def _part(self, size: int) -> bytes:
        size = max(0, size)  # -1 is how Kafka writes that there is none
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise NotKafka
        self._at += size
        return part
