"""The doctor: finds what is missing, and fails only for what is required."""

import importlib.metadata
import json
import socket
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedmb.cli import check as doctor
from fedmb.cli import main
from fedmb.cli.check import Finding, Status
from fedmb.exit_codes import ExitCode


@pytest.fixture
def three_findings(monkeypatch):
    found = [
        Finding("a", Status.OK, "1"),
        Finding("b", Status.WARNING, "2", "look"),
        Finding("c", Status.FAILED, "3", "mend"),
    ]
    monkeypatch.setattr(doctor, "findings", lambda: iter(found))
    return found


def test_a_failed_check_gives_its_exit_code(three_findings, capsys):
    assert main(["check"]) == ExitCode.CHECK
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("warning", "failed", "mend"))


def test_a_warning_is_no_failure(three_findings, capsys):
    del three_findings[2]

    assert main(["check"]) == ExitCode.OK


def test_json_is_one_object_on_stdout(three_findings, capsys):
    main(["check", "--json"])

    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is False
    assert shown["checks"][1] == {"name": "b", "status": "warning", "found": "2", "advice": "look"}


def test_an_old_python_fails(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHON", (9, 9))

    assert doctor.python_version().status is Status.FAILED
    assert doctor.python_version().advice == "install Python 9.9 or newer"


def test_requirements_are_compared_with_their_ranges(monkeypatch):
    lines = ["numpy>=2", "flwr>=99", "nowhere-to-be-found", 'ruff>=99; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    monkeypatch.setattr(importlib.metadata, "version", versions(fedmb="0.1.0", numpy="2.4.6", flwr="1.41.0"))

    found = {finding.name: finding for finding in doctor.requirements()}

    assert [finding.status for finding in found.values()] == [Status.OK, Status.OK, Status.FAILED, Status.FAILED]
    assert found["flwr"].found == "1.41.0, outside >=99"
    assert found["flwr"].advice == "pip install 'flwr>=99'"


def test_without_an_installation_requirements_are_a_warning(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", versions())

    assert [finding.status for finding in doctor.requirements()] == [Status.WARNING]


def test_an_extra_that_is_missing_is_no_warning_and_one_of_a_wrong_version_is(monkeypatch):
    lines = ['fastavro>=1.9; extra == "avro"', 'pyarrow>=17; extra == "arrow"', 'confluent-kafka>=2.6; extra == "fast"']
    monkeypatch.setattr(doctor, "EXTRAS", {"avro": "Avro records", "arrow": "Arrow records", "fast": "speed"})
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    monkeypatch.setattr(importlib.metadata, "version", versions(**{"pyarrow": "9.0", "confluent-kafka": "2.16.1"}))

    avro, arrow, fast = doctor.extras()

    assert (avro.status, avro.found) == (Status.OK, "without fastavro")
    assert avro.advice == "pip install 'fedmb[avro]' for Avro records"
    assert (arrow.status, arrow.found) == (Status.WARNING, "pyarrow 9.0, outside >=17")
    assert (fast.status, fast.found, fast.advice) == (Status.OK, "confluent-kafka 2.16.1", "")


def test_every_extra_that_is_looked_for_is_one_of_ours():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]

    assert doctor.EXTRAS.keys() <= project["optional-dependencies"].keys()


def versions(**known):
    def version(name):
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    return version


@pytest.mark.parametrize(
    ("probe", "status", "found"),
    [
        ("print('NVIDIA H100')", Status.OK, "NVIDIA H100"),
        ("import nothing_like_torch", Status.FAILED, "No module named 'nothing_like_torch'"),
        ("import os; os.abort()", Status.FAILED, "exit code -6"),
    ],
)
def test_torch_is_asked_in_a_process_of_its_own(probe, status, found):
    finding = doctor.torch_device(probe=probe)

    assert finding.status is status
    assert found in finding.found


def test_a_missing_c_wheel_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "find_spec", lambda _name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    without = doctor.crc32c_wheel()
    (tmp_path / "_crc32c.cpython-311-x86_64-linux-gnu.so").touch()

    assert without.status is Status.WARNING
    assert doctor.crc32c_wheel().status is Status.OK


def test_a_missing_c_package_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda _name: None)

    assert doctor.crc32c_wheel().status is Status.WARNING


def test_a_taken_port_is_a_warning():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = doctor.port_is_free(port, "flower-superlink")

    assert taken.status is Status.WARNING
    assert taken.advice == "stop what listens there or give flower-superlink another port"
    assert doctor.port_is_free(port, "flower-superlink").status is Status.OK


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**9, "warning"), (10**6, "failed")])
def test_disk_space_has_two_bounds(free, status, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _place: SimpleNamespace(free=free))

    assert doctor.disk_space(Path("/")).status == status


def test_missing_programs_of_flower_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    (finding,) = doctor.executables(("flower-nothing",))

    assert finding.status is Status.FAILED


def test_a_limit_on_threads_is_shown(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert "OMP_NUM_THREADS=3" in doctor.processors().found


def test_this_machine_passes(monkeypatch):
    monkeypatch.setattr(doctor, "CUDA_PROBE", "print('CPU')")  # importing torch takes seconds and is tested by use

    failed = [finding for finding in doctor.findings() if finding.status is Status.FAILED]

    assert not failed
    assert sys.version_info >= doctor.PYTHON
