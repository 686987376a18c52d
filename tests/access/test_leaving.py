"""What is said for a node that was killed; tests/processes says it to real SuperLinks."""

import ssl

import pytest
from flwr.proto.control_pb2 import UnregisterNodeRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from hearing import Hearing

from fedmb.access.leaving import DEACTIVATE, UNREGISTER, leave
from fedmb.access.new_keys import make_node, make_server

NODE = 2**63 + 5  # Flower's ids fill 64 bits


@pytest.mark.parametrize(("status", "expected"), [(200, True), (404, False)])
def test_on_loopback_it_is_said_over_the_control_api(status, expected):
    server = Hearing(status)

    told = leave(NODE, "127.0.0.1", server.port, tls=False)

    server.close()
    assert told == expected
    assert server.path == UNREGISTER
    assert UnregisterNodeRequest.FromString(server.body).node_id == NODE


def test_with_a_key_it_is_signed_and_goes_through_the_door(tmp_path):
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
