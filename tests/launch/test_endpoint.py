"""Nothing leaves this machine without TLS, and nobody comes in from elsewhere without a key."""

import socket

import pytest

from fedmb.access.new_keys import make_node, make_server
from fedmb.errors import SettingsError
from fedmb.launch.endpoint import Listen, Server, is_loopback, usable_port


@pytest.fixture
def files(tmp_path):
    """Paths that exist; nobody reads a certificate before Flower does."""
    found = [tmp_path / name for name in ("server.crt", "server.key", "authority.crt", "ward.pub")]
    for path in found:
        path.touch()
    return found


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104  # what must be refused
def test_a_server_without_tls_listens_on_loopback_only(host, files):
    with pytest.raises(SettingsError, match=f"must listen on loopback, got host {host}; give --ssl-certfile"):
        Listen(host)

    assert Listen(host, 8000, *files).tls


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host):
    assert is_loopback(host)
    assert not Listen(host).tls


def test_half_a_tls_is_refused(files):
    with pytest.raises(SettingsError, match=r"--ssl-certfile needs .* got none for --ssl-keyfile; give it too"):
        Listen("127.0.0.1", 8000, files[0])


def test_keys_of_nodes_are_of_no_use_without_tls(files):
    with pytest.raises(SettingsError, match="--node-keys needs --ssl-certfile and --ssl-keyfile"):
        Listen("127.0.0.1", 8000, node_keys=files[3])


def test_beyond_loopback_a_server_knows_its_nodes(files):
    with pytest.raises(SettingsError, match=r"must know its nodes by their keys, got host 0.0.0.0 without"):
        Listen("0.0.0.0", 8000, *files[:3])  # noqa: S104  # what must be refused

    assert Listen("127.0.0.1", 8000, *files[:3]).tls


def test_a_certificate_must_exist(files):
    files[1].unlink()

    with pytest.raises(SettingsError, match="--ssl-keyfile must be an existing file"):
        Listen("127.0.0.1", 8000, *files)


def test_a_server_on_every_address_reaches_itself_on_loopback(files):
    assert Listen("0.0.0.0", 8000, *files).own_address == "127.0.0.1:8000"  # noqa: S104  # as above
    assert Listen("::1", 8000).own_address == "[::1]:8000"


@pytest.mark.parametrize("address", ["", "host", ":8000", "host:", "host:0", "host:65536", "host:8000x"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(SettingsError, match="a server is written HOST:PORT"):
        Server(address)


def test_a_client_does_without_tls_on_loopback_only(files):
    assert Server("127.0.0.1:8000").insecure
    assert Server("[::1]:8000").insecure
    assert not Server("example.org:8000", None, files[1]).insecure
    assert not Server("127.0.0.1:8000", files[2]).insecure


def test_beyond_loopback_a_client_proves_who_it_is(files):
    with pytest.raises(SettingsError, match=r"must prove who it is, got example.org:8000 and no key; give --node-key"):
        Server("example.org:8000", files[2])

    assert Server("[2001:db8::1]:8000", files[2], files[1]).host == "2001:db8::1"


def test_a_key_is_not_shown_without_tls(files):
    with pytest.raises(SettingsError, match="a node's key needs TLS"):
        Server("127.0.0.1:8000", None, files[1])


def test_a_taken_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"got 127.0.0.1:{port}"):
            usable_port("127.0.0.1", port)

    assert usable_port("127.0.0.1", port) == port


def test_port_0_is_any_free_one():
    assert usable_port("127.0.0.1", 0) > 0


def test_a_servers_files_are_read_before_it_starts(tmp_path, caplog):
    make_server(tmp_path, ["example.org"], days=5)
    make_node(tmp_path / "nodes", "ward")
    pair = [tmp_path / "server.crt", tmp_path / "server.key"]
    caplog.set_level("INFO")

    Listen("127.0.0.1", 8000, *pair, tmp_path / "authority.crt", tmp_path / "nodes").check()

    assert "certificate ends soon" in caplog.text
    assert "keys=1" in caplog.text
    (tmp_path / "nodes" / "ward.pub").unlink()
    with pytest.raises(SettingsError, match="must hold a public key of each node"):
        Listen("127.0.0.1", 8000, *pair, None, tmp_path / "nodes").check()
