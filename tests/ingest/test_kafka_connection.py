import dataclasses
import pickle

import pytest
from kafka_identities import PASSWORD

from fedmb.errors import SettingsError
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_options import KEYS


@pytest.fixture
def files(tmp_path):
    for name in ("ca", "certificate", "key", "password", "key_password"):
        (tmp_path / name).write_text(f"{PASSWORD} of {name}\n")
    return tmp_path


def test_the_fields_are_the_keys_of_a_url():
    assert {field.name for field in dataclasses.fields(KafkaConnection)} == {"servers", "member", *KEYS}


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"tls": "on"}, "SSL"),
        ({"tls_ca": "/etc/ca.pem"}, "SSL"),
        ({"sasl": "PLAIN", "user": "alice", "password_file": "p"}, "SASL_PLAINTEXT"),
        ({"sasl": "SCRAM-SHA-256", "user": "alice", "password_file": "p", "tls": "on"}, "SASL_SSL"),
    ],
)
def test_the_listener_follows_from_what_is_given(options, protocol):
    connection = KafkaConnection.of("broker", options)

    assert connection.security_protocol == protocol
    assert pickle.loads(pickle.dumps(connection)) == connection  # noqa: S301  # our own bytes


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ({"user": "alice"}, "sasl", "got no sasl"),
        ({"password_file": "p"}, "sasl", "got no sasl"),
        ({"sasl": "PLAIN"}, "user", "got no user"),
        ({"sasl": "PLAIN", "user": "alice"}, "password_file", "got no password_file"),
        ({"tls_key": "k"}, "tls_key", "got no tls_certificate"),
        ({"tls_key_password_file": "k"}, "tls_key_password_file", "got no tls_certificate"),
        ({"tls": "off", "tls_ca": "c"}, "tls", "got tls=off"),
        ({"fetch_bytes": "10"}, "fetch_bytes", "1024 or more"),
        ({"fetch_bytes": str(1 << 31)}, "fetch_bytes", "below"),
        ({"connect_seconds": "nan"}, "connect_seconds", "got nan"),
        ({"stall_seconds": "0"}, "stall_seconds", "0.1 or more"),
        ({"away_seconds": "5"}, "away_seconds", "6.0 or more"),
        ({"away_seconds": "1800"}, "away_seconds", "below 1800"),
        ({"create_replication": "0"}, "create_replication", "-1 is the cluster's default"),
        ({"on_gap": "ignore"}, "on_gap", "stop, skip"),
        ({"compression": "snappy"}, "compression", "none, gzip, lz4, zstd"),
        ({"driver": "kafkapython"}, "driver", "did you mean kafka-python?"),
    ],
)
def test_a_value_that_breaks_a_rule_or_contradicts_another_is_refused(options, key, said):
    with pytest.raises(SettingsError) as caught:
        KafkaConnection.of("broker", options)

    assert caught.value.key == key
    assert said in str(caught.value)


def everything(files) -> KafkaConnection:
    names = {"tls_ca": "ca", "tls_certificate": "certificate", "tls_key": "key", "password_file": "password"}
    paths = {key: str(files / name) for key, name in names.items()}
    identity = {"sasl": "SCRAM-SHA-512", "user": "alice", "tls_key_password_file": str(files / "key_password")}
    return KafkaConnection.of("a,b:1", {**paths, **identity, "connect_seconds": "2.5"})


def test_both_libraries_are_told_the_same(files):
    connection = everything(files)

    python, confluent = connection.kafka_python(), connection.confluent()
    pairs = {
        "security_protocol": "security.protocol",
        "client_id": "client.id",
        "ssl_cafile": "ssl.ca.location",
        "ssl_certfile": "ssl.certificate.location",
        "ssl_keyfile": "ssl.key.location",
        "ssl_password": "ssl.key.password",
        "sasl_mechanism": "sasl.mechanism",
        "sasl_plain_username": "sasl.username",
        "sasl_plain_password": "sasl.password",
        "receive_message_max_bytes": "receive.message.max.bytes",
        "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
        "bootstrap_timeout_ms": "socket.connection.setup.timeout.ms",
    }
    assert {one: python[one] for one in pairs} == {one: confluent[other] for one, other in pairs.items()}
    assert python["bootstrap_servers"] == ["a:9092", "b:1"]
    assert confluent["bootstrap.servers"] == "a:9092,b:1"
    assert python["sasl_plain_password"] == f"{PASSWORD} of password"
    assert python["ssl_password"] == f"{PASSWORD} of key_password"


def test_an_answer_is_bounded_by_what_is_fetched():
    connection = KafkaConnection.of("broker", {"fetch_bytes": "2000000"})

    assert 2_000_000 < connection.kafka_python()["receive_message_max_bytes"] < 6_000_000


@pytest.mark.parametrize("library", ["kafka_python", "confluent"])
@pytest.mark.parametrize("missing", ["ca", "certificate", "key", "password", "key_password"])
def test_a_file_that_is_not_there_is_told_before_anybody_connects(files, library, missing):
    connection = everything(files)
    (files / missing).unlink()

    with pytest.raises(SettingsError, match=f"/{missing}'"):
        getattr(connection, library)()


def test_secrets_are_not_shown(files):
    connection = everything(files)

    assert PASSWORD not in repr(connection)
    assert "password_file=" in repr(connection)
