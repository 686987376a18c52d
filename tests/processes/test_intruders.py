"""Six kinds of intruder at the nodes' door, each a process that is told in one line why, and what to do."""

import datetime as dt
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from doors import DoorProcess, expire, make_keys, post, resident_bytes
from programs import Program, environment, until

from fedmb.access.door import KNOCK, PULL, PUSH
from fedmb.access.new_keys import make_node, make_server
from fedmb.access.node_keys import private_key
from fedmb.access.refusal import Reason, refused_by
from fedmb.access.signed_headers import signed
from fedmb.exit_codes import ExitCode

REPLAY = """
import sys
from doors import post
status, told = post(*sys.argv[1:4], dict(line.split(": ", 1) for line in open(sys.argv[4]).read().splitlines()))
print(told.decode(), file=sys.stderr)
sys.exit(0 if status < 400 else 13)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def door(tmp_path_factory, keys):
    with DoorProcess(tmp_path_factory.mktemp("door"), keys, max_request_bytes=2**20) as door:
        yield door


def headers(keys):
    return signed(private_key(keys / "nodes" / "ward.key"), dt.datetime.now(dt.UTC))


def refused(place, address, *options):
    """Exit code and error of a client, of which nothing else may be left."""
    arguments = ["client", "--server", address, "--name", "ward", "--source", "table:task", *options]
    with Program(place, "intruder", *arguments) as client:
        code = client.ended()
    cause, _, fix = client.log.strip().partition("\n\n")
    assert not (place / "state").exists()
    assert cause.startswith("error: ")
    assert fix.startswith("hint: ")
    assert "\n" not in cause + fix
    return code, cause, fix


def test_without_a_key(door, keys, tmp_path):
    code, cause, fix = refused(tmp_path, door.address, "--root-certificates", keys / "authority.crt")

    assert code == ExitCode.DENIED
    assert cause == "error: a node must sign its requests with its key, got no signature"
    assert "--node-key" in fix


def test_with_a_key_that_is_not_listed(door, keys, tmp_path):
    make_node(tmp_path, "stranger")

    trust = ["--root-certificates", keys / "authority.crt"]
    code, cause, fix = refused(tmp_path, door.address, *trust, "--node-key", tmp_path / "stranger.key")

    assert code == ExitCode.DENIED
    assert "a node's key must be on the server's list, SHA256:" in cause
    assert "put its .pub file into the folder --node-keys" in fix


def test_with_another_authority(door, keys, tmp_path):
    make_server(tmp_path, ["localhost"])

    trust = ["--root-certificates", tmp_path / "authority.crt"]
    code, cause, fix = refused(tmp_path, door.address, *trust, "--node-key", keys / "nodes" / "ward.key")

    assert code == ExitCode.DENIED
    assert f"is not signed by --root-certificates {tmp_path}/authority.crt" in cause
    assert "name the file of the authority" in fix


def test_without_encryption(door, tmp_path):
    code, cause, fix = refused(tmp_path, door.address)

    assert code == ExitCode.DENIED
    assert cause == f"error: the server at {door.address} speaks TLS, this client does not"
    assert fix == "hint: give --root-certificates and --node-key"


def test_with_headers_that_came_before(door, keys, tmp_path):
    seen = headers(keys)
    assert post(door.address, keys / "authority.crt", KNOCK, seen)[0] == 204
    (tmp_path / "headers").write_text("".join(f"{name}: {value}\n" for name, value in seen.items()))
    place = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-c", REPLAY, door.address, keys / "authority.crt", PULL, tmp_path / "headers"],
        env=environment() | {"PYTHONPATH": f"{environment()['PYTHONPATH']}:{place}:{place.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == ExitCode.DENIED
    found = refused_by(told.stderr.encode())
    assert found.reason is Reason.REPLAY
    assert found.sentence.startswith("a signed request may come once, ")
    assert found.sentence.endswith("; sign each request anew")


def test_a_server_whose_certificate_has_expired(keys, tmp_path):
    expired = tmp_path / "keys"
    shutil.copytree(keys, expired)
    expire(expired)
    trust = ["--root-certificates", expired / "authority.crt", "--node-key", expired / "nodes" / "ward.key"]

    with DoorProcess(tmp_path, expired) as door:
        code, cause, fix = refused(tmp_path, door.address, *trust)

    assert code == ExitCode.DENIED
    assert "must be one to trust, and has expired" in cause
    assert "`fedmb keys server`" in fix
    pair = ["--ssl-certfile", expired / "server.crt", "--ssl-keyfile", expired / "server.key"]
    with Program(tmp_path, "server", "server", "--port", 0, *pair) as server:
        assert server.ended() == ExitCode.SETTINGS
    assert "expired on " in server.log


def test_tls_to_a_server_that_has_none(keys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer():
            connection = plain.accept()[0]
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        trust = ["--root-certificates", keys / "authority.crt"]
        code, cause, _ = refused(tmp_path, f"127.0.0.1:{plain.getsockname()[1]}", *trust)

    assert code == ExitCode.DENIED
    assert "must speak TLS, it answers otherwise" in cause


def test_a_key_taken_off_the_list_opens_no_longer(tmp_path):
    keys = make_keys(tmp_path / "keys", nodes=("ward", "meter"))
    with DoorProcess(tmp_path, keys) as door:
        before = post(door.address, keys / "authority.crt", KNOCK, headers(keys))[0]
        (keys / "nodes" / "ward.pub").unlink()
        until(
            lambda: post(door.address, keys / "authority.crt", KNOCK, headers(keys))[0] == 401,
            60,
            door.log_file.read_text,
        )

    assert before == 204
    assert "node keys read" in door.log_file.read_text()


LARGE = 200 * 2**20


@pytest.mark.parametrize(
    ("is_listed", "knows_length", "expected"),
    [(False, True, 401), (False, False, 401), (True, True, 413)],  # the fourth needs a SuperLink: guarded_federation
    ids=["stranger, declared", "stranger, in chunks", "node, declared"],
)
def test_a_body_of_200_mb_is_refused_without_being_held(door, keys, is_listed, knows_length, expected):
    proof = headers(keys) if is_listed else {}
    body = b"x" * LARGE if knows_length else (b"x" * 2**16 for _ in range(LARGE >> 16))
    before = resident_bytes(door.process.pid)

    status, told = post(door.address, keys / "authority.crt", PUSH, proof, body)

    assert resident_bytes(door.process.pid) - before < 16 * 2**20
    assert status == expected
    assert refused_by(told) is not None
