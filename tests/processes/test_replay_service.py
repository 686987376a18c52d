"""`fedmb replay serve` as people run it: over TLS, with actors and learners, stopped and started again."""

import json
import secrets
import signal
import time
import urllib.request

import numpy as np
import pytest
from programs import Program, certificates
from replay_child import started
from replay_service import SCHEMA, is_whole, numbered

from fedmb.errors import AccessDenied, Unreachable
from fedmb.replay.remote import RemoteTable

pytestmark = pytest.mark.timeout(250)
COLUMNS = ", ".join(f'{name} = "{one.dtype}{list(one.shape) or ""}"' for name, one in SCHEMA.items())
SETTINGS = f"""
port = 0
[tables.default]
columns = {{ {COLUMNS} }}
capacity = 5000
sampler = {{ kind = "prioritized" }}
folder = "rows"
[tables.memory]
columns = {{ {COLUMNS} }}
capacity = 500
[snapshots]
folder = "snapshots"
"""


def service(place, *options, name="service", settings=SETTINGS):
    (place / "replay.toml").write_text(settings)
    return Program(place, name, "replay", "serve", "--config", "replay.toml", *options)


def address_of(program):
    return program.logged("service ready address=").split()[0]


@pytest.fixture
def secret(tmp_path):
    """Options for a service with TLS and a token, and what a client needs."""
    certificate, key, authority = certificates(tmp_path)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    options = [f"certificate={certificate}", f"key={key}", f"token_file={token}"]
    return [part for one in options for part in ("--set", one)], token, authority


def test_two_actors_and_two_learners_meet_over_tls_and_intruders_do_not(tmp_path, secret):
    options, token, authority = secret
    with service(tmp_path, *options) as program:
        address = address_of(program)
        clients = [
            started("actor", address, 0, 1000, "grpc", token, authority),
            started("actor", address, 1000, 1000, "auto", token, authority),
        ]
        with RemoteTable(address, token_file=token, root_certificates=authority) as table:
            while not len(table):
                time.sleep(0.01)
        clients += [started("learner", address, 40, transport, token, authority) for transport in ("grpc", "shared")]
        with pytest.raises(AccessDenied):
            RemoteTable(address, root_certificates=authority)
        with pytest.raises(Unreachable):
            RemoteTable(address)
        said = [client.communicate(timeout=100)[0] for client in clients]
        with RemoteTable(address, token_file=token, root_certificates=authority) as table:
            found = table.statistics()
            numbers = {number for _ in range(60) for number in table.sample(200).columns["number"].tolist()}

        assert [client.returncode for client in clients] == [0] * 4, program.log
        assert [int(one) for one in said[:2]] == [1000, 1000]
        assert found.rows == found.appended == 2000
        assert found.reprioritized == sum(map(int, said[2:])) > 1000
        assert len(numbers) > 500


def test_sigterm_stores_the_tables_and_they_go_on(tmp_path):
    with service(tmp_path) as program:
        address = address_of(program)
        with RemoteTable(address, reconnect_seconds=0.0) as table, RemoteTable(address, "memory") as memory:
            ids = table.append(numbered(0, 300))
            table.reprioritize(ids, np.where(ids == 7, 1e6, 1e-9))
            memory.append(numbered(0, 50))
            assert is_whole(table.sample(64).columns)
            began = time.monotonic()
            program.send(signal.SIGTERM)
            assert program.ended() == 0, program.log
            assert time.monotonic() - began < 5
            with pytest.raises(Unreachable):
                table.append(numbered(300, 1))
        assert program.output == "served 2 tables with 350 rows\n"
        assert program.log.count("table stored") == 2
    with service(tmp_path, name="again") as program:
        address = address_of(program)
        with RemoteTable(address) as table, RemoteTable(address, "memory") as memory:
            drawn = table.sample(64)

            assert (drawn.ids == 7).mean() > 0.5
            assert len(memory) == 50
        figures = program.logged("metrics=").split()[0]
        with urllib.request.urlopen(figures, timeout=10) as answer:  # noqa: S310  # its own metrics, on loopback
            text = answer.read().decode()
        assert 'fedmb_replay_rows{table="default"} 300.0' in text
        inspected = Program(tmp_path, "inspect", "replay", "inspect", address, "--json")
        assert inspected.ended() == 0, inspected.log
        found = json.loads(inspected.output)
        assert (found["rows"], found["ages"]["max"], found["priorities"]["count"]) == (300, 299, 300)


def test_what_cannot_be_served_ends_with_a_code_of_its_own(tmp_path):
    with service(tmp_path) as program:
        address_of(program)
        other = service(tmp_path, name="other")
        plain = service(tmp_path, "--host", "0.0.0.0", name="plain")  # noqa: S104  # refused
        wrong = service(tmp_path, "--set", "tables.default.columns={x='object'}", name="wrong")

        assert other.ended() == 8, other.log
        assert "rows" in other.log
        assert plain.ended() == 3
        assert "needs TLS and a token" in plain.log
        assert wrong.ended() == 3
        assert "tables.default.columns" in wrong.log
