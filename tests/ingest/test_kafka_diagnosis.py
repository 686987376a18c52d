"""Every way in which a broker does not let us in, against real listeners, with both libraries."""

import logging
import socket
import socketserver
import threading
import time
from contextlib import closing

import pytest
from kafka_broker import KafkaBroker, free_port
from kafka_identities import KEY_PASSWORD, PASSWORD, guarded_broker

from fedmb.errors import AccessDenied, SettingsError, Unreachable
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_diagnosis import diagnosed, reach
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import open_log

SECONDS = 1.5
CA = {"tls_ca": "ours.pem"}
CLIENT = {**CA, "tls_certificate": "client.pem"}
LOCKED = {**CLIENT, "tls_key": "client.locked.key"}
ALICE = {"user": "alice", "password_file": "password"}
SCRAM = {**ALICE, "sasl": "SCRAM-SHA-512"}
WRONG = {"password_file": "wrong"}

CASES = {
    "a name that does not resolve": ("no-such-host.invalid:9092", {}, Unreachable, "must resolve"),
    "a port where nobody listens": ("NOBODY", {}, Unreachable, "nothing listens there"),
    "plaintext to a TLS port": ("ENCRYPTED", {}, Unreachable, "speaks TLS"),
    "SASL plaintext to a TLS port": ("BOTH", SCRAM, Unreachable, "speaks TLS"),
    "TLS to a plaintext port": ("PLAINTEXT", CA, Unreachable, "speaks plaintext"),
    "an authority that we do not trust": ("ENCRYPTED", {"tls_ca": "other.pem"}, AccessDenied, "not signed by tls_ca"),
    "an authority that nobody trusts": ("ENCRYPTED", {"tls": "on"}, AccessDenied, "not signed by the system's"),
    "a certificate of yesterday": ("EXPIRED", CA, AccessDenied, "has expired"),
    "a certificate of another host": ("ELSEWHERE", CA, AccessDenied, "is for another host"),
    "no certificate of ours": ("MUTUAL", CA, AccessDenied, "add &tls_certificate="),
    "a certificate of ours that they do not trust": (
        "MUTUAL", {**CA, "tls_certificate": "stranger.pem"}, AccessDenied, "authority that the broker trusts",
    ),
    "an authority's file without certificates": ("MUTUAL", {"tls_ca": "password"}, SettingsError, "tls_ca must name"),
    "a key without its password": ("MUTUAL", LOCKED, SettingsError, "tls_key_password_file"),
    "a key with another password": (
        "MUTUAL", {**LOCKED, "tls_key_password_file": "wrong"}, SettingsError, "tls_key_password_file",
    ),
    "no user": ("USER", {}, AccessDenied, "add &sasl=SCRAM-SHA-512&user=NAME"),
    "no user behind TLS": ("BOTH", CA, AccessDenied, "add &sasl=SCRAM-SHA-512&user=NAME"),
    "a user that nobody asks for": ("PLAINTEXT", SCRAM, AccessDenied, "drop sasl"),
    "a user that nobody asks for behind TLS": ("ENCRYPTED", {**SCRAM, **CA}, AccessDenied, "drop sasl"),
    "a mechanism that is not enabled": (
        "USER", {**SCRAM, "sasl": "SCRAM-SHA-256"}, AccessDenied, "takes PLAIN, SCRAM-SHA-512",
    ),
    "a wrong password": ("USER", {**SCRAM, **WRONG}, AccessDenied, "Authentication failed"),
    "a wrong password of PLAIN": ("USER", {**ALICE, **WRONG, "sasl": "PLAIN"}, AccessDenied, "Invalid username"),
    "an unknown user": ("BOTH", {**CA, **SCRAM, "user": "carol"}, AccessDenied, "must know user=carol"),
}  # fmt: skip

WAYS_IN = {
    "plaintext": ("PLAINTEXT", {}),
    "TLS": ("ENCRYPTED", CA),
    "both certificates": ("MUTUAL", CLIENT),
    "a locked key": ("MUTUAL", {**LOCKED, "tls_key_password_file": "key_password"}),
    "PLAIN": ("USER", {**ALICE, "sasl": "PLAIN", "user": "bob"}),
    "SCRAM": ("USER", {**SCRAM, "user": "bob"}),
    "SCRAM behind TLS": ("BOTH", {**CA, **SCRAM, "user": "bob"}),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("identities")
    for name, secret in (("password", PASSWORD), ("wrong", "guess"), ("key_password", KEY_PASSWORD)):
        (directory / name).write_text(f"{secret}\n")
    return directory


@pytest.fixture(scope="module")
def guarded(directory):
    with guarded_broker(directory) as broker:
        yield broker


@pytest.fixture
def url(guarded, directory, topic):
    """A URL by the listener's name, or by host and port, and options whose files lie in `directory`."""

    def url_of(server: str, options: dict[str, str], driver: str) -> str:
        ports = {**guarded.ports, "PLAINTEXT": guarded.port, "NOBODY": free_port()}
        place = f"127.0.0.1:{ports[server]}" if server in ports else server
        paths = ("tls_ca", "tls_certificate", "tls_key", "tls_key_password_file", "password_file")
        full = {key: f"{directory}/{value}" if key in paths else value for key, value in options.items()}
        query = "&".join(f"{key}={value}" for key, value in {**full, "driver": driver}.items())
        return f"kafka://{place}/{topic}?{query}&connect_seconds={SECONDS}"

    return url_of


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
@pytest.mark.parametrize(("server", "options", "kind", "said"), CASES.values(), ids=CASES)
def test_each_cause_reads_differently_in_time_and_without_secrets(url, caplog, server, options, kind, said, driver):
    caplog.set_level(logging.DEBUG)
    text = url(server, options, driver)
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        open_log(text)
    spent = time.monotonic() - began
    message = str(caught.value)

    assert said in message
    assert "; " in message, "a way out"
    assert spent < SECONDS + 2
    if kind is not SettingsError:
        assert text.split("/")[2] in message
    assert not [line for line in (message, caplog.text) if PASSWORD in line or KEY_PASSWORD in line]


def test_the_causes_are_told_apart():
    texts = [said for _, _, _, said in CASES.values()]
    same = {"speaks TLS", "add &sasl=SCRAM-SHA-512&user=NAME", "drop sasl", "tls_key_password_file"}

    assert all(texts.count(said) == 2 if said in same else texts.count(said) == 1 for said in texts)


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
@pytest.mark.parametrize(("server", "options"), WAYS_IN.values(), ids=WAYS_IN)
def test_records_go_in_and_out_by_every_way(url, caplog, topic, server, options, driver):
    caplog.set_level(logging.DEBUG)
    log = open_log(url(server, options, driver))
    with closing(log.writer(topic, 0)) as writer:
        assert [writer.append(b"%d" % number) for number in range(5)] == [0, 1, 2, 3, 4]
        writer.flush()
        with closing(log.reader(topic, [0])) as reader:
            assert [bytes(record.value) for record in records_between(reader, 0, 5)] == [b"0", b"1", b"2", b"3", b"4"]

    assert PASSWORD not in caplog.text
    assert ("password sent readable" in caplog.text) == (options.get("sasl") == "PLAIN")


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
def test_a_user_who_may_do_nothing_is_told_what_to_be_granted(url, topic, driver):
    open_log(url("PLAINTEXT", {}, driver)).writer(topic, 0).close()
    log = open_log(url("USER", SCRAM, driver))

    for ask in (lambda: log.partitions(topic), lambda: log.writer(topic, 0), lambda: log.writer(f"{topic}-new", 0)):
        with pytest.raises(AccessDenied, match=rf"user alice must be allowed to see {topic}.*grant DESCRIBE"):
            ask()


def test_a_broker_that_hangs_is_told_in_time(own_kafka):
    connection = KafkaConnection.of(own_kafka.address, {"connect_seconds": str(SECONDS)})
    own_kafka.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(Unreachable, match=r"must answer within 1\.5 s, got nothing"):
            reach(connection)
    finally:
        own_kafka.thaw()

    assert SECONDS - 0.5 < time.monotonic() - began < SECONDS + 2
    reach(connection)


def test_a_broker_that_starts_meanwhile_is_waited_for():
    broker = KafkaBroker()
    starting = threading.Thread(target=broker.start)
    starting.start()
    try:
        reach(KafkaConnection.of(broker.address, {"connect_seconds": "60"}))
    finally:
        starting.join()
        broker.stop()


def test_one_broker_that_lets_us_in_is_enough(kafka):
    reach(KafkaConnection.of(f"no-such-host.invalid,127.0.0.1:{free_port()},{kafka.address}", {}))


def test_what_other_brokers_say_is_noted(url):
    with pytest.raises(AccessDenied, match="must know user=alice") as caught:
        reach(open_url(url("USER", {**SCRAM, **WRONG}, "confluent"), f"127.0.0.1:{free_port()}"))

    assert len(caught.value.__notes__) == 1
    assert "nothing listens there" in caught.value.__notes__[0]


def open_url(text: str, *more: str) -> KafkaConnection:
    head, _, query = text.partition("?")
    servers = ",".join([*more, head.split("/")[2]])
    return KafkaConnection.of(servers, dict(pair.split("=", 1) for pair in query.split("&")))


def test_a_server_of_another_kind_is_named():
    class Page(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with pytest.raises(Unreachable, match="answers in another one"):
                reach(KafkaConnection.of(f"127.0.0.1:{server.server_address[1]}", {"connect_seconds": "1"}))
        finally:
            server.shutdown()
            serving.join()


def test_a_port_that_accepts_and_says_nothing_is_told_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable, match="got nothing"):
        reach(KafkaConnection.of(f"127.0.0.1:{listener.getsockname()[1]}", {"connect_seconds": "0.5"}))


def test_a_cluster_that_names_itself_wrongly_is_told():
    wrong = r"no-such-host\.invalid:9092 .*mend advertised\.listeners"
    with KafkaBroker(advertised="no-such-host.invalid:9092") as broker, pytest.raises(Unreachable, match=wrong):
        reach(KafkaConnection.of(broker.address, {"connect_seconds": "1"}))


def test_a_failure_that_has_passed_is_told_as_it_was(kafka):
    error = diagnosed(KafkaConnection.of(kafka.address, {}), TimeoutError("no bootstrap"))

    assert isinstance(error, Unreachable)
    assert "TimeoutError: no bootstrap" in str(error)
