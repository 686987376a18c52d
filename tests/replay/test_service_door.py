"""Who comes in to a service over the network, and who does not."""

import secrets
import socket

import pytest
from programs import certificates
from replay_service import SCHEMA, numbered, serving

from fedmb.errors import AccessDenied, SettingsError, ShapeError, Unreachable
from fedmb.replay.remote import RemoteTable
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_table import ServedTable
from fedmb.replay.service import ReplayService
from fedmb.replay.service_access import Listening
from fedmb.replay.service_door import Door
from fedmb.replay.wire_format import Hello, frames, json_of, schema_in

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def secret(tmp_path):
    """Certificate, key, authority and a token's file."""
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    return [*certificates(tmp_path), token]


def test_a_token_and_tls_let_in_who_has_them(secret):
    certificate, key, authority, token = secret
    listening = Listening(certificate=certificate, key=key, token_file=token)
    with (
        serving(listening=listening) as service,
        RemoteTable(service.address, root_certificates=authority, token_file=token, transport="grpc") as table,
    ):
        table.append(numbered(0, 10))

        assert len(table.sample(4)) == 4


def test_intruders_stay_outside(secret, tmp_path):
    certificate, key, authority, token = secret
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text(secrets.token_hex(32))
    (tmp_path / "other").mkdir()
    stranger = certificates(tmp_path / "other")[2]
    listening = Listening(certificate=certificate, key=key, token_file=token)
    with serving(listening=listening) as service:
        with pytest.raises(AccessDenied, match="token"):
            RemoteTable(service.address, root_certificates=authority)
        with pytest.raises(AccessDenied, match="token"):
            RemoteTable(service.address, root_certificates=authority, token_file=wrong)
        with pytest.raises(Unreachable):
            RemoteTable(service.address, token_file=token)  # plain to TLS
        with pytest.raises(Unreachable):
            RemoteTable(service.address, root_certificates=stranger, token_file=token)
        host, _, port = service.address.rpartition(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)

        assert service.door.statistics().opened == 0
        RemoteTable(service.address, root_certificates=authority, token_file=token).close()


def test_a_token_is_asked_for_on_loopback_too_where_there_is_one(secret):
    token = secret[3]
    with serving(listening=Listening(token_file=token)) as service:
        with pytest.raises(AccessDenied):
            RemoteTable(service.address)
        RemoteTable(service.address, token_file=token).close()


def test_a_door_counts_and_closes():
    table = ServedTable(ReplayTable(SCHEMA, 10))
    door = Door({"t": table}, 1000)
    with door.session(Hello("t", "w"), lambda: True) as session:
        assert door.statistics().streams == 1
        welcome = json_of(next(frames(door.welcome(session))).payload)
        door.close()
        assert not session.is_active()

    assert schema_in(welcome["columns"]) == dict(SCHEMA)
    assert welcome["share"] is None
    assert (door.statistics().streams, door.statistics().opened) == (0, 1)
    with pytest.raises(Unreachable), door.session(Hello("t", "w"), lambda: True):
        pass


def test_a_door_compares_tables_and_columns():
    door = Door({"t": ServedTable(ReplayTable(SCHEMA, 10))}, 1000)

    with pytest.raises(SettingsError, match="one of t"), door.session(Hello("u", "w"), lambda: True):
        pass
    with pytest.raises(ShapeError), door.session(Hello("t", "w", {"x": SCHEMA["x"]}), lambda: True):
        pass
    reordered = dict(reversed(SCHEMA.items()))
    with door.session(Hello("t", "w", reordered), lambda: True):
        pass


def test_tickets_cannot_be_guessed():
    doors = [Door({}, 1000) for _ in range(2)]

    assert doors[0].ticket != doors[1].ticket
    with pytest.raises(AccessDenied):
        doors[0].check_ticket(doors[1].ticket)
    doors[0].check_ticket(doors[0].ticket)


def test_a_certificate_that_is_none_is_refused(tmp_path, secret):
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")

    with pytest.raises(SettingsError, match="TLS takes its files"):
        ReplayService({}, Listening(certificate=nonsense, key=secret[1]))
