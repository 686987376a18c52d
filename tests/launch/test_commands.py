"""Command lines are lists without secrets, and Flower's processes stay off the network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedmb.errors import FedmbError
from fedmb.launch import commands
from fedmb.launch.endpoint import Server


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
    assert found["PATH"].split(os.pathsep)[:2] == [str(tmp_path / "bin"), str(Path(sys.executable).parent)]


def test_programs_that_flower_starts_by_name_are_ours_and_take_its_words(tmp_path):
    commands.put_programs(tmp_path)
    commands.put_programs(tmp_path)
    environment = commands.environment(tmp_path)

    for name in ("flwr-clientapp", "flower-superexec"):
        assert shutil.which(name, path=environment["PATH"]) == str(tmp_path / "bin" / name)
        told = subprocess.run([name, "--help"], env=environment, capture_output=True, text=True, check=True)
        assert f"usage: {name}" in told.stdout


@pytest.mark.parametrize("python", ["/a place/python", f"/{'x' * 130}/python"])
def test_where_no_script_can_name_this_python_flowers_own_are_run(python, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", python)

    commands.put_programs(tmp_path)

    assert not list(tmp_path.iterdir())


def test_flowers_processes_find_this_fedmb(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")

    parts = commands.environment(tmp_path)["PYTHONPATH"].split(os.pathsep)

    assert parts[-1] == "/mine"
    assert parts == ["/mine"] or (Path(parts[0]) / "fedmb" / "launch").is_dir()


def test_a_superlink_listens_where_it_is_told_and_installs_nothing():
    command = commands.superlink("127.0.0.1", 8123, "/bin/link")

    assert command == [
        "/bin/link",
        "--host",
        "127.0.0.1",
        "--port",
        "8123",
        "--insecure",
        "--disable-runtime-dependency-installation",
    ]


def test_a_door_is_told_the_name_of_its_plan_and_nothing_else(tmp_path):
    assert commands.door(tmp_path / "door.json")[1:] == ["-m", "fedmb.access.door_process", str(tmp_path / "door.json")]


def test_a_supernode_gets_its_settings_as_a_file(tmp_path):
    file = tmp_path / 'it\'s "node" a=b.toml'

    command = commands.supernode(Server("127.0.0.1:8123"), port=9123, node_config=file, program="/bin/node")

    assert command[:1] == ["/bin/node"]
    assert command[1:4] == ["--superlink", "127.0.0.1:8123", "--insecure"]
    assert command[4:] == ["--host", "127.0.0.1", "--port", "9123", "--node-config", str(file)]


def test_a_supernode_trusts_what_it_is_told_to(tls, tmp_path):
    given, system = (
        commands.supernode(
            Server("example.org:443", roots, tls[1]), port=9123, node_config=tmp_path / "node.toml", program="node"
        )
        for roots in (tls[2], None)
    )

    assert given[3:7] == ["--root-certificates", str(tls[2]), "--auth-supernode-private-key", str(tls[1])]
    assert not {"--insecure", "--root-certificates"} & set(system)
    assert not [part for part in given if "contents" in part]
