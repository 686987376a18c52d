"""Encryption to brokers: our side's context, and what a failed handshake means."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from fedmb.errors import AccessDenied, SettingsError

if TYPE_CHECKING:
    from fedmb.ingest.kafka_connection import KafkaConnection

# OpenSSL's numbers of what is wrong with a certificate.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def tls_context(connection: KafkaConnection) -> ssl.SSLContext | None:
    """Encryption as the connection's settings want it; None for none.

    Raises:
        SettingsError: a certificate or key cannot be used.
    """
    if not connection.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if connection.tls_ca:
            context.load_verify_locations(connection.tls_ca)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"tls_ca must name a PEM file of certificates, got {connection.tls_ca!r} ({error}); name the authorities' "
            "file",
            key="tls_ca",
        ) from error
    if connection.tls_certificate:
        key = connection.tls_key or connection.tls_certificate
        try:  # without a password OpenSSL would ask for one at the terminal
            context.load_cert_chain(connection.tls_certificate, key, connection.key_password)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"tls_certificate and tls_key must be a certificate and its key in PEM, got "
                f"{connection.tls_certificate!r} and {key!r} ({error}); mend them, or tls_key_password_file",
                key="tls_key",
            ) from error
    return context


def mistrusted(connection: KafkaConnection, server: str, error: ssl.SSLCertVerificationError) -> AccessDenied:
    """What is wrong with a broker's certificate."""
    trusted = f"tls_ca={connection.tls_ca}" if connection.tls_ca else "the system's authorities"
    if error.verify_code == _EXPIRED:
        said = "has expired; renew it"
    elif error.verify_code == _NOT_YET_VALID:
        said = "is not valid yet; set this machine's clock, or wait"
    elif error.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
        said = f"is for another host ({error.verify_message.rstrip('.')}); name the host as the certificate does"
    else:
        said = f"is not signed by {trusted} ({error.verify_message}); name the authority's file with tls_ca"
    return AccessDenied(f"the certificate of {server} must be one to trust, and {said}")


def certificate_wanted(connection: KafkaConnection, server: str, error: ssl.SSLError) -> AccessDenied:
    """What a broker has against our certificate, or its absence."""
    if connection.tls_certificate:
        return AccessDenied(
            f"{server} must accept tls_certificate={connection.tls_certificate}, and refuses it ({error.reason}); have "
            "it signed by an authority that the broker trusts"
        )
    return AccessDenied(
        f"{server} must let us in without a certificate, and asks for one ({error.reason}); add "
        "&tls_certificate=PATH&tls_key=PATH"
    )
