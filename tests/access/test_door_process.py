"""The door's process: who is silent is not waited for. What it lets in is in test_door.py and tests/processes."""

import socket
import ssl

from doors import DoorProcess, make_keys


def test_a_connection_that_asks_nothing_is_closed(tmp_path):
    keys = make_keys(tmp_path / "keys")
    trust = ssl.create_default_context(cafile=keys / "authority.crt")
    with DoorProcess(tmp_path, keys, header_seconds=0.2) as door:
        for sent in (b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n"):
            with (
                socket.create_connection(("127.0.0.1", door.port), timeout=60) as plain,
                trust.wrap_socket(plain, server_hostname="localhost") as silent,
            ):
                silent.sendall(sent)
                try:
                    assert silent.recv(1) == b""
                except (ConnectionResetError, ssl.SSLError):
                    continue
