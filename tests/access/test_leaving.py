"""What is said for a node that was killed; tests/processes says it to real SuperLinks."""

import socket
import threading

import pytest
from flwr.proto.control_pb2 import UnregisterNodeRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest

from fedmb.access.leaving import DEACTIVATE, UNREGISTER, leave
from fedmb.access.new_keys import make_node, make_server

NODE = 2**63 + 5  # Flower's ids fill 64 bits


class Hearing:
    """A server of one request, over TLS where it has a context."""

    def __init__(self, status, context=None):
        self.server, self.heard = socket.create_server(("127.0.0.1", 0)), b""
        self.port = self.server.getsockname()[1]
        self.status, self.context = status, context
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.server.accept()
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True)
        with connection:
            while b"\r\n\r\n" not in self.heard or len(self.body) < int(self.header("content-length")):
                self.heard += connection.recv(65_536)
            connection.sendall(f"HTTP/1.1 {self.status} X\r\ncontent-length: 0\r\n\r\n".encode())

    @property
    def body(self):
        return self.heard.partition(b"\r\n\r\n")[2]

    @property
    def path(self):
        return self.heard.split()[1].decode()

    def header(self, name):
        lines = self.heard.partition(b"\r\n\r\n")[0].decode().splitlines()[1:]
        return next((value for key, value in (line.split(": ", 1) for line in lines) if key.lower() == name), "0")

    def close(self):
        self.thread.join()
        self.server.close()


@pytest.mark.parametrize(("status", "expected"), [(200, True), (404, False)])
def test_on_loopback_it_is_said_over_the_control_api(status, expected):
    server = Hearing(status)

    told = leave(NODE, "127.0.0.1", server.port, tls=False)

    server.close()
    assert told == expected
    assert server.path == UNREGISTER
    assert UnregisterNodeRequest.FromString(server.body).node_id == NODE


def test_with_a_key_it_is_signed_and_goes_through_the_door(tmp_path):
    import ssl

    make_server(tmp_path, ["localhost"])
    make_node(tmp_path, "ward")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    server = Hearing(200, context)

    roots, key = tmp_path / "authority.crt", tmp_path / "ward.key"
    told = leave(NODE, "localhost", server.port, tls=True, roots=roots, key=key)

    server.close()
    assert told
    assert server.path == DEACTIVATE
    assert DeactivateNodeRequest.FromString(server.body).node_id == NODE
    assert all(server.header(name) != "0" for name in ("flwr-public-key", "flwr-timestamp", "flwr-signature"))


def test_over_tls_nobody_without_a_key_can_speak_for_a_node():
    assert not leave(NODE, "127.0.0.1", 1, tls=True)


def test_a_server_that_is_not_there_hears_nothing(caplog):
    assert not leave(NODE, "127.0.0.1", 9, tls=False)
    assert f"node not taken off the list node={NODE}" in caplog.text
