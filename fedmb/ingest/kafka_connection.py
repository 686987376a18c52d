"""How to reach a Kafka cluster and who we are there: one value for every client of either driver.

    kafka://host:9092,host2:9092/topic?tls_ca=/etc/ca.pem&sasl=SCRAM-SHA-512&user=alice&password_file=/run/secrets/kafka
    kafka://host:9092/topic?settings=/etc/fedmb/kafka.toml&connect_seconds=5

The fields of `KafkaConnection` are the keys, in the URL as in the file; where both have one, the URL's counts. Secrets
are named by file alone, read when a client is made, and shown nowhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmb.ingest.kafka_options import (
    WORDS,
    Compression,
    Driver,
    Isolation,
    OnDamage,
    Sasl,
    check_word,
    read_file,
    read_options,
    read_secret,
    refuse,
    servers_of,
)
from fedmb.ingest.kafka_secrets import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENT_ID = "fedmb"
RECONNECT_SECONDS = 2.0  # longest pause between two attempts; a restarted broker is found again well within 10 s
RECEIVE_SLACK = 1 << 20  # bytes an answer may hold beyond its records: a cluster's metadata fit
_LIMIT = 1 << 31  # what the protocol's and librdkafka's 32-bit numbers hold

_LEAST = {
    "connect_seconds": 0.1,
    "stall_seconds": 0.1,
    "away_seconds": 6.0,  # what brokers take, unless their group.min.session.timeout.ms says otherwise
    "delivery_seconds": 1.0,
    "fetch_bytes": 1024,
    "buffer_bytes": 1024,
    "create_partitions": 1,
}
_MOST = {"away_seconds": 1800.0}  # brokers' group.max.session.timeout.ms
_FILES = ("tls_ca", "tls_certificate", "tls_key", "tls_key_password_file", "password_file")

library_logger = logging.getLogger("fedmb.librdkafka")
"""Where confluent_kafka's library logs; it would write to stderr itself."""
# It warns of each setting that it calls experimental, whenever a client is made; ours are chosen on purpose.
library_logger.addFilter(lambda record: "CONFWARN" not in record.getMessage())


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """A cluster's addresses, our identity there, and how much may be asked of it at once.

    Raises:
        SettingsError: a value breaks a rule, or two contradict each other.
    """

    servers: tuple[str, ...]
    """host:port of one broker or more; the rest of the cluster is asked of them."""
    driver: Driver = "kafka-python"
    """Library that speaks to the brokers; `confluent` is several times faster and needs the extra fedmb[fast]."""
    group: str = ""
    """Name under which lag monitors find how far the model has learnt, `fedmb` without one; and where a URL names no
    partition, of the consumer group that deals them out."""
    away_seconds: float = 120.0
    """How long that group keeps the partitions of a client that is between two rounds, or gone."""
    member: str = ""
    """Name by which the group knows a member that comes back; one without a name leaves when it is closed."""
    tls: bool = False
    """Encrypt; on as soon as one of `tls_...` is given. Without `tls_ca` the system's authorities are trusted."""
    tls_ca: str = ""
    """PEM file with the authorities that may have signed the brokers' certificates."""
    tls_certificate: str = ""
    """PEM file with our own certificate, for brokers that ask for one."""
    tls_key: str = ""
    """PEM file with its private key; the certificate's own file when not given."""
    tls_key_password_file: str = ""
    """File with the password of that key."""
    sasl: Sasl | None = None
    """How we prove who we are."""
    user: str = ""
    """Name that goes with it."""
    password_file: str = ""
    """File with the password; a newline at its end does not count."""
    isolation: Isolation = "read_committed"
    """Records of transactions that were not committed are not read, unless `read_uncommitted`."""
    connect_seconds: float = 10.0
    """How long brokers may take to answer at the start."""
    fetch_bytes: int = 4 << 20
    """Most bytes of records that one answer brings; no less than the brokers' message.max.bytes."""
    on_gap: OnDamage = "stop"
    """What to do where records that a ledger needs are gone."""
    on_corrupt: OnDamage = "stop"
    """What to do where a batch fails its checksum."""
    stall_seconds: float = 30.0
    """How long the library may stay inside one call before it counts as hung."""
    compression: Compression = "none"
    """Of what we write; with kafka-python, lz4 and zstd need the extra fedmb[compression]."""
    delivery_seconds: float = 120.0
    """How long a record that we write may wait for its acknowledgement."""
    buffer_bytes: int = 32 << 20
    """Bytes written and not yet acknowledged with which a writer waits before it takes more."""
    create_partitions: int = 1
    """Partitions of a topic that a writer makes."""
    create_replication: int = -1
    """Copies of each; -1 is the cluster's default."""

    def __post_init__(self) -> None:
        if not self.servers:
            refuse("servers", "a kafka: stream must name a broker, got none; write it like kafka://host:9092/topic")
        for server in self.servers:
            servers_of(server)
        for key in WORDS:
            if key != "sasl" or self.sasl is not None:
                check_word(key, getattr(self, key))
        for key, least in _LEAST.items():
            value = getattr(self, key)
            most = _MOST.get(key, _LIMIT)
            if not least <= value < most:
                refuse(key, f"{key} must be {least} or more and below {most}, got {value}; choose one between")
        if self.create_replication != -1 and not 0 < self.create_replication < 1 << 15:
            refuse(
                "create_replication",
                f"create_replication must be 1 or more, got {self.create_replication}; -1 is the cluster's default",
            )
        self._check_encryption()
        self._check_identity()

    def _check_encryption(self) -> None:
        for key in ("tls_ca", "tls_certificate", "tls_key", "tls_key_password_file"):
            if getattr(self, key) and not self.tls:
                refuse("tls", f"{key} means nothing without encryption, got tls=off; drop one of the two")
        for key in ("tls_key", "tls_key_password_file"):
            if getattr(self, key) and not self.tls_certificate:
                refuse(key, f"{key} belongs to a certificate, got no tls_certificate; name the certificate's file")

    def _check_identity(self) -> None:
        for key in ("user", "password_file"):
            named = bool(getattr(self, key))
            if self.sasl and not named:
                refuse(key, f"sasl={self.sasl} must come with user and password_file, got no {key}; name it")
            if named and not self.sasl:
                refuse("sasl", f"{key} must come with a mechanism, got no sasl; name one of {', '.join(WORDS['sasl'])}")

    @classmethod
    def of(cls, servers: str, options: Mapping[str, str]) -> KafkaConnection:
        """The connection that a URL describes.

        Args:
            servers: host:port with commas between; 9092 is the port of one without.
            options: the URL's keys but for those that name partitions. `settings` names a TOML file with more.

        Raises:
            SettingsError: a key is unknown, holds a secret, has a value that breaks a rule or contradicts another.
        """
        values = read_options(options)
        values.setdefault("tls", any(key.startswith("tls_") for key in values))
        return cls(servers=servers_of(servers), **values)  # type: ignore[arg-type]  # `read_options` gives each its type

    @property
    def security_protocol(self) -> str:
        """Kafka's word for the kind of listener that this connection needs."""
        return ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")

    @property
    def receive_bytes(self) -> int:
        """Longest answer that a client takes from a broker."""
        return min(2 * self.fetch_bytes + RECEIVE_SLACK, _LIMIT - 1)

    def password(self) -> str:
        """The user's password, read from its file now; empty without SASL.

        Raises:
            SettingsError: the file cannot be read or is empty.
        """
        return read_secret(self.password_file, "password_file") if self.password_file else ""

    def key_password(self) -> str:
        """The password of the private key, read from its file now; empty where none is named.

        Raises:
            SettingsError: the file cannot be read or is empty.
        """
        path = self.tls_key_password_file
        return read_secret(path, "tls_key_password_file") if path else ""

    def kafka_python(self) -> dict[str, object]:
        """Arguments that KafkaConsumer, KafkaProducer and KafkaAdminClient share; they hold the secrets.

        Raises:
            SettingsError: a file that is named cannot be read.
        """
        self._check_files()
        hide(self.password())
        hide(self.key_password())
        arguments: dict[str, object] = {
            "bootstrap_servers": list(self.servers),
            "client_id": CLIENT_ID,
            "bootstrap_timeout_ms": int(self.connect_seconds * 1000),
            "reconnect_backoff_max_ms": int(RECONNECT_SECONDS * 1000),
            "receive_message_max_bytes": self.receive_bytes,
            "security_protocol": self.security_protocol,
        }
        if self.tls:
            arguments["ssl_check_hostname"] = True
            arguments["ssl_cafile"] = self.tls_ca or None
            arguments["ssl_certfile"] = self.tls_certificate or None
            arguments["ssl_keyfile"] = self.tls_key or self.tls_certificate or None
            arguments["ssl_password"] = self.key_password() or None
        if self.sasl:
            arguments["sasl_mechanism"] = self.sasl
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self.password()
        return arguments

    def confluent(self) -> dict[str, object]:
        """Arguments that confluent_kafka's Consumer, Producer and AdminClient share; they hold the secrets.

        A consumer must add `fetch.max.bytes`, at most `fetch_bytes`: the library's default is more than it may
        receive here, which it refuses.

        Raises:
            SettingsError: a file that is named cannot be read.
        """
        self._check_files()
        arguments: dict[str, object] = {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": CLIENT_ID,
            "socket.connection.setup.timeout.ms": max(1000, int(self.connect_seconds * 1000)),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": int(RECONNECT_SECONDS * 1000),
            "receive.message.max.bytes": self.receive_bytes,
            "security.protocol": self.security_protocol,
            "logger": library_logger,
        }
        if self.tls:
            named = {
                "ssl.ca.location": self.tls_ca,
                "ssl.certificate.location": self.tls_certificate,
                "ssl.key.location": self.tls_key or self.tls_certificate,
                "ssl.key.password": self.key_password(),
            }
            arguments["ssl.endpoint.identification.algorithm"] = "https"
            arguments.update((key, value) for key, value in named.items() if value)
        if self.sasl:
            arguments["sasl.mechanism"] = self.sasl
            arguments["sasl.username"] = self.user
            arguments["sasl.password"] = self.password()
        return arguments

    def _check_files(self) -> None:
        for key in _FILES:
            if path := getattr(self, key):
                read_file(path, key)
