"""Keys are private from the start, never overwritten, and what others read in them is right."""

import datetime as dt
import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedmb.access.certificates import check_server, is_signed
from fedmb.access.new_keys import make_authority, make_node, make_server
from fedmb.errors import SettingsError


def test_private_files_are_their_owners_alone(tmp_path):
    make_server(tmp_path / "keys", ["example.org"])
    make_node(tmp_path / "keys", "ward")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"authority.key", "server.key", "ward.key"}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_server_is_signed_for_its_hosts_and_for_loopback(tmp_path):
    made = make_server(tmp_path, ["fl.example.org", "10.0.0.5"])

    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert ipaddress.ip_address("10.0.0.5") in names.get_values_for_type(x509.IPAddress)
    files = [tmp_path / name for name in ("server.crt", "server.key", "authority.crt")]
    assert check_server(*files) == 364


def test_nothing_is_overwritten(tmp_path):
    make_server(tmp_path, ["example.org"])
    make_node(tmp_path, "ward")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    for again in (make_authority, lambda place: make_server(place, ["b.org"]), lambda place: make_node(place, "ward")):
        with pytest.raises(SettingsError, match="never overwritten"):
            again(tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_server_has_the_same_authority(tmp_path):
    make_server(tmp_path, ["a.org"])
    (tmp_path / "server.crt").unlink()
    (tmp_path / "server.key").unlink()

    made = make_server(tmp_path, ["b.org"], days=10)

    authority = x509.load_pem_x509_certificate((tmp_path / "authority.crt").read_bytes())
    assert is_signed(made, authority)


def test_a_server_is_valid_no_longer_than_its_authority(tmp_path):
    authority = make_authority(tmp_path, days=5)

    assert make_server(tmp_path, ["a.org"], days=90).not_valid_after_utc == authority.not_valid_after_utc


def test_flower_reads_a_nodes_key(tmp_path):
    line = make_node(tmp_path, "ward")

    key = load_ssh_private_key((tmp_path / "ward.key").read_bytes(), None)
    assert key.curve.name == "secp384r1"
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" ward\n")


@pytest.mark.parametrize("name", ["", "../ward", "a b", ".hidden", "w" * 65])
def test_a_name_that_is_no_file_is_refused(name, tmp_path):
    with pytest.raises(SettingsError, match="a node's name is letters"):
        make_node(tmp_path, name)


@pytest.mark.parametrize("host", ["https://example.org", "example.org:8000", "", "a b"])
def test_a_host_is_a_name_or_an_address(host, tmp_path):
    with pytest.raises(SettingsError, match="leave scheme and port out"):
        make_server(tmp_path, [host])


def test_an_authority_without_its_key_cannot_sign(tmp_path):
    make_authority(tmp_path)
    (tmp_path / "authority.key").unlink()

    with pytest.raises(SettingsError, match="the authority's key must be there to sign"):
        make_server(tmp_path, ["a.org"])


def test_dates_begin_before_now_for_machines_whose_clock_is_slow(tmp_path):
    made = make_authority(tmp_path)

    assert made.not_valid_before_utc < dt.datetime.now(dt.UTC) - dt.timedelta(minutes=30)
