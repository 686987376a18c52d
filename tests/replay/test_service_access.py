import pytest
from programs import certificates

from fedmb.errors import SettingsError
from fedmb.replay.service_access import Listening, Reaching, address, admits, read_token

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])  # noqa: S104  # refused
def test_beyond_loopback_there_must_be_tls_and_a_token(host, tmp_path, token):
    certificate, key, _ = certificates(tmp_path)

    with pytest.raises(SettingsError, match="no certificate"):
        Listening(host, token_file=token)
    with pytest.raises(SettingsError, match="no token_file"):
        Listening(host, certificate=certificate, key=key)
    Listening(host, certificate=certificate, key=key, token_file=token)


def test_half_of_tls_is_none(tmp_path):
    certificate, key, _ = certificates(tmp_path)

    for half in ({"certificate": certificate}, {"key": key}):
        with pytest.raises(SettingsError, match="needs a certificate and its key"):
            Listening(**half)


@pytest.mark.parametrize(
    "content", ["", "short", "two words that are long enough", "ä" * 20, "x" * 5000, "a" * 20 + "\0"]
)
def test_what_is_no_token_is_refused(content, token):
    token.write_text(content)

    with pytest.raises(SettingsError, match="a token must be"):
        read_token(token)


def test_a_token_that_everybody_can_read_is_refused(token):
    token.chmod(0o644)

    with pytest.raises(SettingsError, match="chmod 600"):
        Listening(token_file=token)


def test_a_token_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingsError, match="token_file must be a file"):
        Reaching("127.0.0.1:1", token_file=tmp_path / "none")


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", TOKEN, f"bearer {TOKEN}", b"\xff"]
)
def test_only_the_token_itself_admits(shown, token):
    bearer = Listening(token_file=token).bearer()

    assert not admits(bearer, shown)
    assert admits(bearer, f"Bearer {TOKEN}")
    assert admits(None, shown), "a service without a token"


@pytest.mark.parametrize(
    "wrong", ["", "host", "host:", ":80", "host:0", "host:70000", "host:-1", "host:http", "http://host:80"]
)
def test_an_address_is_a_host_and_a_port(wrong):
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Reaching(wrong)


def test_a_client_speaks_plainly_to_its_own_machine_only():
    assert Reaching("127.0.0.1:1").is_plain
    assert Reaching("[::1]:1").is_plain
    assert Reaching("localhost:1").is_plain
    assert not Reaching("192.0.2.1:1").is_plain
    assert not Reaching("example.org:1").is_plain


def test_an_address_of_version_six_stands_in_brackets():
    assert address("::1", 5) == "[::1]:5"
    assert address("127.0.0.1", 5) == "127.0.0.1:5"
