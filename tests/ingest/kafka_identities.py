"""Certificates, users and a broker that asks for them."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka_broker import KafkaBroker

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct horse"  # noqa: S105  # of a broker that lives for one test
KEY_PASSWORD = "battery staple"  # noqa: S105  # as above
DAY = dt.timedelta(days=1)


class Authority:
    """Signs certificates; its own lies in `ca`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = directory / f"{name}.pem"
        own = self._builder(self.name, self.key.public_key(), 10 * DAY)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca.write_bytes(own.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def certificate(self, name: str, *, hosts: tuple[str, ...] = ("127.0.0.1",), lifetime: dt.timedelta = DAY) -> Path:
        """PEM file with a certificate and its key; a negative lifetime has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ipaddress.ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
        builder = self._builder(subject, key.public_key(), lifetime)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self.key, hashes.SHA256())
        path = self.directory / f"{name}.pem"
        path.write_bytes(_pem(key, "") + signed.public_bytes(serialization.Encoding.PEM))
        locked = self.directory / f"{name}.locked.key"
        locked.write_bytes(_pem(key, KEY_PASSWORD))
        return path

    def _builder(self, subject, key, lifetime):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 20 * DAY)
            .not_valid_after(now + lifetime)
        )


def _pem(key, password: str) -> bytes:
    way = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, way)


def guarded_broker(directory: Path) -> KafkaBroker:
    """Plaintext for anybody, who may do all; listeners with TLS and SASL for alice, who may do nothing, and bob.

    `directory` gets ours.pem, other.pem (authorities), client.pem (signed by ours), stranger.pem (by other).
    """
    ours, other = Authority(directory, "ours"), Authority(directory, "other")
    ours.certificate("client")
    other.certificate("stranger")
    jaas = "org.apache.kafka.common.security"
    settings = {
        "inter.broker.listener.name": "PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:bob;User:CN=client",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ours.ca),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(ours.certificate("broker")),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.expired.ssl.keystore.type": "PEM",
        "listener.name.expired.ssl.keystore.location": str(ours.certificate("late", lifetime=-DAY)),
        "listener.name.elsewhere.ssl.keystore.type": "PEM",
        "listener.name.elsewhere.ssl.keystore.location": str(ours.certificate("moved", hosts=("kafka.example",))),
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
    }
    for name in ("user", "both"):
        users = " ".join(f'user_{one}="{PASSWORD}"' for one in ("alice", "bob"))
        settings[f"listener.name.{name}.plain.sasl.jaas.config"] = f"{jaas}.plain.PlainLoginModule required {users};"
        settings[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = f"{jaas}.scram.ScramLoginModule required;"
    return KafkaBroker(
        settings=settings,
        listeners={
            "ENCRYPTED": "SSL",
            "MUTUAL": "SSL",
            "EXPIRED": "SSL",
            "ELSEWHERE": "SSL",
            "USER": "SASL_PLAINTEXT",
            "BOTH": "SASL_SSL",
        },
        scram={"alice": PASSWORD, "bob": PASSWORD},
    )
