import pytest

from fedmb.errors import SettingsError
from fedmb.ingest.kafka_options import KEYS, read_file, read_options, read_secret, servers_of


def refused(call, *args) -> str:
    with pytest.raises(SettingsError) as caught:
        call(*args)
    return str(caught.value)


def test_servers_get_the_default_port():
    assert servers_of("a,b.c:9093,[::1]:1,10.0.0.1") == ("a:9092", "b.c:9093", "[::1]:1", "10.0.0.1:9092")


@pytest.mark.parametrize("text", ["", "a:", "a:0", "a:65536", "a:x", "a b", "a,,b", "a;b", "::1"])
def test_a_server_that_is_none_is_refused(text):
    assert "host:port" in refused(servers_of, text)


def test_a_file_holds_the_same_keys_and_the_url_counts(tmp_path):
    path = tmp_path / "kafka.toml"
    path.write_text('driver = "confluent"\nconnect_seconds = 3\ntls = true\nfetch_bytes = 5000\n')

    assert read_options({"settings": str(path), "connect_seconds": "4.5"}) == {
        "driver": "confluent",
        "connect_seconds": 4.5,
        "tls": True,
        "fetch_bytes": 5000,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("conect_seconds = 3", "did you mean connect_seconds?"),
        ('fetch_bytes = "many"', "must be a whole number"),
        ("fetch_bytes = 1.5", "must be a whole number"),
        ("fetch_bytes = true", "must be a whole number"),
        ("connect_seconds = true", "must be a number"),
        ('tls = "maybe"', "must be on or off"),
        ("user = 5", "must be a text"),
        ('sasl = "plain"', "did you mean PLAIN?"),
        ("password = 'hunter2'", "password_file=PATH"),
        ("tls_key_password = 'hunter2'", "tls_key_password_file=PATH"),
        ("settings = 'other.toml'", "has no 'settings'"),
        ("user = 'hunter2", "must name a TOML file"),
    ],
)
def test_a_file_is_read_strictly_and_quoted_by_name_alone(tmp_path, text, said):
    path = tmp_path / "kafka.toml"
    path.write_text(text)
    message = refused(read_options, {"settings": str(path)})

    assert said in message
    assert str(path) in message
    assert "hunter2" not in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "x") in refused(read_options, {"settings": str(tmp_path / "x")})
    assert "mend path or rights" in refused(read_file, str(tmp_path), "tls_ca")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_without_a_value_is_refused(key):
    assert key in refused(read_options, {key: ""})


def test_a_secret_loses_the_newline_at_its_end_and_nothing_else(tmp_path):
    (tmp_path / "s").write_bytes(b" correct horse \r\n")

    assert read_secret(str(tmp_path / "s"), "password_file") == " correct horse "


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2\xff", b"hunter2" * 10_000])
def test_a_file_without_a_secret_is_refused_and_not_quoted(tmp_path, content):
    (tmp_path / "s").write_bytes(content)
    message = refused(read_secret, str(tmp_path / "s"), "password_file")

    assert str(tmp_path / "s") in message
    assert "hunter2" not in message
