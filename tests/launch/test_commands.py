"""Command lines are lists without secrets, and Flower's processes stay off the network."""

import os
import sys
import tomllib
from pathlib import Path

import pytest

from fedmb.errors import FedmbError
from fedmb.launch import commands
from fedmb.launch.endpoint import Listen, Server


@pytest.fixture
def tls(tmp_path):
    files = [tmp_path / name for name in ("server.crt", "server.key", "authority.crt")]
    for path in files:
        path.write_text(f"contents of {path.name}")
    return files


def test_a_program_beside_this_python_comes_before_the_path(tmp_path, monkeypatch):
    (tmp_path / "flwr").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commands.executable("flwr") == str(Path(sys.executable).with_name("flwr"))


def test_a_program_may_be_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "flwr").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commands.executable("flwr") == str(tmp_path / "flwr")


def test_a_missing_program_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(FedmbError, match="flower-nothing must stand beside"):
        commands.executable("flower-nothing")


def test_flower_stays_off_the_network_and_out_of_the_home_folder(tmp_path):
    found = commands.environment(tmp_path)

    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"] == str(tmp_path)
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_flowers_processes_find_this_fedmb(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")

    parts = commands.environment(tmp_path)["PYTHONPATH"].split(os.pathsep)

    assert parts[-1] == "/mine"
    assert parts == ["/mine"] or (Path(parts[0]) / "fedmb" / "launch").is_dir()


def test_a_superlink_installs_nothing_and_is_insecure_on_loopback_only(tls):
    plain, safe = commands.superlink(Listen("127.0.0.1", 8123)), commands.superlink(Listen("127.0.0.1", 8123, *tls))

    assert plain[1:] == [
        "--host",
        "127.0.0.1",
        "--port",
        "8123",
        "--disable-runtime-dependency-installation",
        "--insecure",
    ]
    assert "--insecure" not in safe
    assert safe[-6:] == ["--ssl-certfile", str(tls[0]), "--ssl-keyfile", str(tls[1]), "--ssl-ca-certfile", str(tls[2])]
    assert not [part for part in safe if "contents" in part]


def test_a_supernode_gets_its_settings_as_a_file(tmp_path):
    file = tmp_path / 'it\'s "node" a=b.toml'

    command = commands.supernode(Server("127.0.0.1:8123"), port=9123, node_config=file)

    assert command[1:4] == ["--superlink", "127.0.0.1:8123", "--insecure"]
    assert command[4:] == ["--host", "127.0.0.1", "--port", "9123", "--node-config", str(file)]


def test_a_supernode_trusts_what_it_is_told_to(tls, tmp_path):
    given = commands.supernode(Server("example.org:443", tls[2]), port=9123, node_config=tmp_path / "node.toml")
    system = commands.supernode(Server("example.org:443"), port=9123, node_config=tmp_path / "node.toml")

    assert given[3:5] == ["--root-certificates", str(tls[2])]
    assert not {"--insecure", "--root-certificates"} & set(system)


def test_the_connection_names_the_server(tls):
    plain = tomllib.loads(commands.connection(Listen("::1", 8123)))
    safe = tomllib.loads(commands.connection(Listen("127.0.0.1", 8123, *tls)))

    assert plain["superlink"]["fedmb"] == {"address": "[::1]:8123", "insecure": True}
    assert safe["superlink"]["fedmb"] == {"address": "127.0.0.1:8123", "root-certificates": str(tls[2])}
