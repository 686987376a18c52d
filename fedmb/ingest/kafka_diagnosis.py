"""Why no broker lets us in, found by asking it directly: libraries report every cause as the same timeout.

    name -> address -> TCP -> encryption -> Kafka's protocol -> mechanism -> user -> addresses that the cluster names

The first step that fails is the cause. Each reads differently, and names the broker and the way out.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from fedmb.errors import AccessDenied, FedmbError, SettingsError, Unreachable
from fedmb.ingest.kafka_options import WORDS
from fedmb.ingest.kafka_probe import (
    NO_SASL_HERE,
    UNSUPPORTED_MECHANISM,
    NotKafka,
    Wire,
    sasl_mechanisms,
    speaks_plainly,
    speaks_tls,
)
from fedmb.ingest.kafka_tls import certificate_wanted, mistrusted, tls_context

if TYPE_CHECKING:
    from fedmb.ingest.kafka_connection import KafkaConnection

RETRY_SECONDS = 0.2  # between two looks at a broker that may still be starting
SECOND_LOOK_SECONDS = 1.0  # for asking a port that failed what it speaks instead
AFTER_FAILURE_SECONDS = 1.0  # for a diagnosis after a client has used up its own time


class _Finding(NamedTuple):
    error: FedmbError
    may_pass: bool
    """Whether it is what a broker that is still starting looks like."""


def reach(connection: KafkaConnection) -> None:
    """Wait until a broker lets us in, at most `connect_seconds`; what waiting cannot mend is raised at once.

    Raises:
        Unreachable: none answers, or none in a way that is understood.
        AccessDenied: a broker refuses who we are, or its certificate is not to be trusted.
        SettingsError: a file of ours cannot be used.
    """
    deadline = time.monotonic() + connection.connect_seconds
    tls = tls_context(connection)
    while findings := _examined(connection, tls, deadline):
        if time.monotonic() + RETRY_SECONDS >= deadline or not any(finding.may_pass for finding in findings):
            raise _worst(findings)
        time.sleep(RETRY_SECONDS)


def cause(connection: KafkaConnection) -> FedmbError | None:
    """Why no broker lets us in at this moment; None if one does. Takes two seconds at most."""
    try:
        findings = _examined(connection, tls_context(connection), time.monotonic() + AFTER_FAILURE_SECONDS)
    except SettingsError as refused:
        return refused
    return _worst(findings) if findings else None


def diagnosed(connection: KafkaConnection, error: BaseException) -> FedmbError:
    """What to raise when a client could not get in and gave up with `error`; takes two seconds at most."""
    found = cause(connection)
    if found is not None:
        return found
    servers, said = ", ".join(connection.servers), f"{type(error).__name__}: {str(error)[:300]}"
    return Unreachable(
        f"{servers} must serve within {connection.connect_seconds:g} s, got {said}; the brokers answer now: try again, "
        "or raise connect_seconds"
    )


def _examined(connection: KafkaConnection, tls: ssl.SSLContext | None, deadline: float) -> list[_Finding]:
    """What keeps each broker from letting us in; nothing as soon as one does."""
    answers: queue.SimpleQueue[_Finding | None] = queue.SimpleQueue()
    for server in connection.servers:
        # Looking up a name cannot be given a timeout, so the thread may outlive the question.
        args = (connection, server, tls, deadline, answers)
        threading.Thread(target=_examine, args=args, daemon=True).start()
    findings: list[_Finding] = []
    for _ in connection.servers:
        remaining = deadline + SECOND_LOOK_SECONDS - time.monotonic()
        try:
            finding = answers.get(timeout=max(0.0, remaining))
        except queue.Empty:
            finding = _Finding(_silent(connection, ", ".join(connection.servers)), may_pass=True)
        if finding is None:
            return []
        findings.append(finding)
    return findings


def _worst(findings: list[_Finding]) -> FedmbError:
    """The finding that time will not mend, if there is one; the others are its notes."""
    ordered = sorted(findings, key=lambda finding: finding.may_pass)
    for other in ordered[1:]:
        ordered[0].error.add_note(str(other.error))
    return ordered[0].error


def _examine(
    connection: KafkaConnection,
    server: str,
    tls: ssl.SSLContext | None,
    deadline: float,
    answers: queue.SimpleQueue[_Finding | None],
) -> None:
    try:
        with Wire(server, deadline=deadline, tls=tls) as wire:
            wire.api_versions()
            refusal = _sasl_refusal(connection, server, wire)
            advertised = () if refusal else wire.advertised()
        finding = _Finding(refusal, may_pass=False) if refusal else _unreachable_names(server, advertised, deadline)
    except (OSError, NotKafka, FedmbError) as error:
        finding = _finding(connection, server, tls, error)
    answers.put(finding)


def _finding(  # noqa: PLR0911  # one return for each cause
    connection: KafkaConnection, server: str, tls: ssl.SSLContext | None, error: Exception
) -> _Finding:
    """What an error means: by itself where its class says it, else by a second look at the port."""
    if isinstance(error, FedmbError):
        return _Finding(error, may_pass=False)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _Finding(mistrusted(connection, server, error), may_pass=False)
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return _Finding(certificate_wanted(connection, server, error), may_pass=False)
    if isinstance(error, socket.gaierror):
        what = f"a broker's name must resolve, got {server!r} ({error.strerror}); mend the name, or the name service"
        return _Finding(Unreachable(what), may_pass=True)
    if isinstance(error, ConnectionRefusedError):
        what = f"{server} must accept connections, and refuses: nothing listens there; start it, or mend host and port"
        return _Finding(Unreachable(what), may_pass=True)
    other = _other_language(connection, server, tls)
    if other is not None:
        return _Finding(other, may_pass=False)
    if isinstance(error, NotKafka):
        what = f"{server} must speak Kafka's protocol, and answers in another one; mend host and port"
        return _Finding(Unreachable(what), may_pass=False)
    if isinstance(error, TimeoutError):
        return _Finding(_silent(connection, server), may_pass=True)
    what = f"{server} must keep a connection, got {error}; look into the broker's log"
    return _Finding(Unreachable(what), may_pass=True)


def _other_language(connection: KafkaConnection, server: str, tls: ssl.SSLContext | None) -> FedmbError | None:
    """What a port that did not answer as it should speaks instead; None if that is not known either."""
    look = time.monotonic() + SECOND_LOOK_SECONDS
    if tls and speaks_plainly(server, deadline=look):
        return Unreachable(
            f"{server} must speak TLS for a stream with tls, and speaks plaintext; name its TLS port, or drop tls_..."
        )
    if not tls and speaks_tls(server, deadline=look):
        return Unreachable(
            f"{server} must speak plaintext for a stream without tls, and speaks TLS; add &tls_ca=PATH, or name its "
            "plaintext port"
        )
    wanted = () if connection.sasl else sasl_mechanisms(server, deadline=look, tls=tls)
    if wanted:
        ours = max((word for word in WORDS["sasl"] if word in wanted), default=None)
        way_out = f"add &sasl={ours}&user=NAME&password_file=PATH" if ours else f"enable {WORDS['sasl'][-1]} there"
        return AccessDenied(
            f"{server} must let us in without a user, and asks for one ({', '.join(wanted)}); {way_out}"
        )
    return None


def _silent(connection: KafkaConnection, server: str) -> Unreachable:
    return Unreachable(
        f"{server} must answer within {connection.connect_seconds:g} s, got nothing; look whether the broker hangs or "
        "a firewall drops packets, or raise connect_seconds"
    )


def _sasl_refusal(connection: KafkaConnection, server: str, wire: Wire) -> FedmbError | None:
    """What the broker has against our mechanism, user or password."""
    from kafka.net.sasl.scram import ScramClient

    if not connection.sasl:
        return None
    answer = wire.sasl_handshake(connection.sasl)
    if answer.error == UNSUPPORTED_MECHANISM:
        return AccessDenied(
            f"{server} must take sasl={connection.sasl}, and takes {', '.join(answer.mechanisms)}; choose one of "
            "these, or enable it there"
        )
    if answer.error == NO_SASL_HERE:
        return AccessDenied(f"{server} must ask who we are, and does not; drop sasl, user and password_file")
    if connection.sasl == "PLAIN":
        error, said, _ = wire.sasl_authenticate(f"\0{connection.user}\0{connection.password()}".encode())
    else:
        scram = ScramClient(connection.user, connection.password(), connection.sasl)
        error, said, token = wire.sasl_authenticate(scram.first_message())
        if not error:
            try:
                scram.process_server_first_message(token)
                error, said, token = wire.sasl_authenticate(scram.final_message())
                if not error:
                    scram.process_server_final_message(token)
            except (KeyError, ValueError) as broken:
                raise NotKafka from broken
    if error:
        return AccessDenied(
            f"{server} must know user={connection.user} with the password in {connection.password_file}, and refuses "
            f"({said or f'error {error}'}); mend user or password, or add the user to {connection.sasl} there"
        )
    return None


def _unreachable_names(server: str, advertised: tuple[str, ...], deadline: float) -> _Finding | None:
    """What keeps us from the addresses that the cluster names; nothing if one of them accepts connections."""
    cause = "none"
    for name in advertised:
        try:
            with Wire(name, deadline=deadline):
                return None
        except OSError as error:
            cause = f"{name} ({error.strerror or 'no answer'})"
    return _Finding(
        Unreachable(
            f"{server} answers and must name brokers that can be reached from here, got {cause}; mend "
            "advertised.listeners of the brokers, or the name service here"
        ),
        may_pass=True,
    )
