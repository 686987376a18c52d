"""Asks a schema registry: any server with the HTTP interface of Confluent's (Karapace, Apicurio at /apis/ccompat/v7).

What goes wrong is told apart by whose fault it is: a record that names a schema which the registry does not know is set
aside (`DecodeError`); a registry that is down, slow or answers nonsense is tried again (`Unreachable`), since the
record may be good; a registry that refuses us needs a human (`AccessDenied`).

Source: https://docs.confluent.io/platform/current/schema-registry/develop/api.html.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from base64 import b64encode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

from pydantic import Field

from fedmb.errors import AccessDenied, DecodeError, SettingsError, Unreachable
from fedmb.ingest.kafka_options import read_secret
from fedmb.ingest.writer_schema import MAX_SCHEMA_BYTES, WriterSchema
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ANSWER_BYTES = 2 * MAX_SCHEMA_BYTES  # a schema of quotes alone doubles inside JSON
MAX_CACHED = 1024  # schemas, and ids that were not known
MAX_REFERENCES = 64
UNKNOWN_SECONDS = 30.0  # for which an unknown id is not asked for again: hostile records must not load the registry

_CONTENT = "application/vnd.schemaregistry.v1+json"
_UNKNOWN_CODES = {40401, 40402, 40403}  # subject, version, schema; a 404 without them is another server's
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class RegistryAccess(Section):
    """A schema registry, and who we are there."""

    url: str
    """Where it answers, like https://registry:8081; a path belongs to it where the registry has one."""
    user: str = ""
    """Name for its password, by HTTP basic authentication; over https alone, but on this machine."""
    password_file: str = ""
    """File with the password; a newline at its end does not count."""
    tls_ca: str = ""
    """PEM file with the authorities that may have signed its certificate; the system's when not given."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=3600)
    """How long one question may take in all."""


def _refuse(key: str, message: str) -> NoReturn:
    raise SettingsError(message, key=key)


class SchemaRegistry:
    """A client that remembers every schema it was told, since an id never gets another schema; for one thread.

    Args:
        access: where it is.
        clock: monotonic seconds.

    Raises:
        SettingsError: the URL is none, a file cannot be read, or a password would travel in the open.
    """

    def __init__(self, access: RegistryAccess, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            parts = urlsplit(access.url)
            port = parts.port
        except ValueError as error:
            _refuse(
                "url", f"a registry's URL must be like https://registry:8081, got {access.url!r} ({error}); mend it"
            )
        if parts.username or parts.password:
            _refuse("url", "a registry's URL must hold no password, got one; give user and password_file")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            _refuse("url", f"a registry's URL must be like https://registry:8081, got {access.url!r}; mend it")
        if bool(access.user) != bool(access.password_file):
            _refuse("password_file", f"user and password_file go together, got user {access.user!r}; give both")
        if access.user and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            _refuse("url", f"a password must travel over https, got {access.url!r}; use the registry's https port")
        self.url = access.url.rstrip("/")
        """As given."""
        self._host, self._port, self._path = parts.hostname, port, parts.path.rstrip("/")
        self._timeout = access.timeout_seconds
        self._tls = _context(access.tls_ca) if parts.scheme == "https" else None
        self._headers = {"Accept": f"{_CONTENT}, application/json", "Connection": "close"}
        if access.user:
            pair = f"{access.user}:{read_secret(access.password_file, 'password_file')}"
            self._headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
        self._clock = clock
        self._schemas: dict[int, WriterSchema] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, number: int) -> WriterSchema:
        """The schema with this id; blocks for `timeout_seconds` at most, and only the first time.

        Raises:
            DecodeError: the registry does not know the id, or a schema that this one refers to.
            Unreachable: it does not answer in time, or not like a registry.
            AccessDenied: it refuses our password, or we its certificate.
        """
        known = self._schemas.get(number)
        if known is not None:
            return known
        path = f"/schemas/ids/{number}"
        found = None if self._clock() < self._unknown.get(number, 0) else self._asked("GET", path)
        if found is None:
            if len(self._unknown) >= MAX_CACHED:
                self._unknown.clear()
            self._unknown.setdefault(number, self._clock() + UNKNOWN_SECONDS)
            raise DecodeError(
                f"a record's schema must be known to the registry {self.url}, got id {number}, which is not; did its "
                "producer register it there?"
            )
        self._unknown.pop(number, None)
        references: dict[str, str] = {}
        self._collect(found, references)
        if len(self._schemas) >= MAX_CACHED:
            self._schemas.clear()
        kind = str(found.get("schemaType") or "AVRO")
        schema = WriterSchema(number, kind, _text(found, self.url + path), tuple(references.items()))
        self._schemas[number] = schema
        return schema

    def register(self, subject: str, kind: str, text: str) -> int:
        """The id of a schema under a subject, which gets it as a new version when it has not got it yet.

        Raises:
            SettingsError: the registry refuses the schema, as a rule because consumers of the last could not read it.
            Unreachable: it does not answer in time, or not like a registry.
            AccessDenied: it refuses our password, or we its certificate.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions"
        found = self._asked("POST", path, {"schemaType": kind, "schema": text})
        number = found.get("id") if found else None
        if type(number) is not int or not 0 <= number < 1 << 32:
            self._nonsense(path, f"no id in {str(found)[:200]}")
        return number

    def _collect(self, found: dict[str, Any], references: dict[str, str]) -> None:
        """Add what a schema refers to, by name, its references' own first."""
        for entry in found.get("references") or ():
            try:
                name, subject, version = str(entry["name"]), str(entry["subject"]), int(entry["version"])
            except (TypeError, KeyError, ValueError):
                self._nonsense("/schemas", f"the reference {str(entry)[:200]}")
            if name in references:
                continue
            if len(references) >= MAX_REFERENCES:
                raise DecodeError(f"a schema must refer to at most {MAX_REFERENCES} others, got more; merge them")
            references[name] = ""  # so that a circle ends
            path = f"/subjects/{quote(subject, safe='')}/versions/{version}"
            other = self._asked("GET", path)
            if other is None:
                raise DecodeError(
                    f"a record's schema must be whole, got one that refers to {subject} version {version}, which the "
                    f"registry {self.url} does not have; register it there"
                )
            self._collect(other, references)
            del references[name]
            references[name] = _text(other, self.url + path)

    def _asked(self, method: str, path: str, content: dict[str, str] | None = None) -> dict[str, Any] | None:
        """The answer's object; None when the registry says that it has no such thing."""
        status, data = self._exchanged(method, self._path + path, content)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        said = answer.get("message", "") if isinstance(answer, dict) else data[:200].decode(errors="replace")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise AccessDenied(
                f"the registry must let us in, {self.url} answers {status} to {method} {path}: {str(said)[:200]!r}; "
                "check user and password_file, and what that user may do"
            )
        if not isinstance(answer, dict):
            self._nonsense(path, f"{status} and {said!r}")
        if status == HTTPStatus.NOT_FOUND and answer.get("error_code") in _UNKNOWN_CODES:
            return None
        if method == "POST" and status in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise SettingsError(
                f"the registry must accept the schema, {self.url} answers {status} to {path}: {str(said)[:300]!r}; "
                "write to another topic, or relax the subject's compatibility",
                key="subject",
            )
        if status != HTTPStatus.OK:
            self._nonsense(path, f"{status} and {str(said)[:200]!r}")
        return answer

    def _exchanged(self, method: str, path: str, content: dict[str, str] | None) -> tuple[int, bytes]:
        """Status and body, within the timeout as a whole: a peer that sends a byte a second is cut off."""
        body = None if content is None else json.dumps(content).encode()
        headers = self._headers | ({} if body is None else {"Content-Type": _CONTENT})
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
            if self._tls is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        )
        deadline: threading.Timer | None = None
        try:
            connection.connect()
            deadline = threading.Timer(self._timeout, _cut, [connection.sock])
            deadline.daemon = True
            deadline.start()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise AccessDenied(
                f"the registry's certificate must be signed by an authority that we know, {self.url}: "
                f"{error.verify_message}; name its authority in tls_ca"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(
                f"the registry must answer within {self._timeout:g} s, {self.url} did not: "
                f"{type(error).__name__}: {error}; is it up, and is its address right? the records wait"
            ) from error
        finally:
            if deadline is not None:
                deadline.cancel()
            connection.close()
        if len(data) > MAX_ANSWER_BYTES:
            self._nonsense(path, f"more than {MAX_ANSWER_BYTES} bytes")
        return response.status, data

    def _nonsense(self, path: str, found: str) -> NoReturn:
        raise Unreachable(
            f"a schema registry must answer {path}, {self.url} answers {found}; is a path missing at its URL's end? "
            "the records wait"
        )


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _context(tls_ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=tls_ca or None)
    except OSError as error:
        _refuse("tls_ca", f"tls_ca must be a PEM file with certificates, got {tls_ca!r} ({error}); mend it")


def _text(found: dict[str, Any], where: str) -> str:
    text = found.get("schema")
    if not isinstance(text, str):
        raise Unreachable(f"a registry must answer with a schema, {where} answers {str(found)[:200]}; is it one?")
    return text
