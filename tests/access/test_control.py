"""What a SuperLink is asked on loopback; tests/processes asks real ones."""

import hashlib
import io
import zipfile

import pytest
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
)
from flwr.proto.run_pb2 import Run, RunStatus
from hearing import Hearing

from fedmb.access.control import LIST, START, STOP, run_status, start_run, stop_run
from fedmb.errors import FedmbError, SettingsError

RUN = 2**63 + 5  # Flower's ids fill 64 bits


@pytest.fixture
def app(tmp_path):
    """A directory that Flower takes for an app."""
    (tmp_path / "app.py").write_text("app = 1\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1.0.0"\nlicense = "MIT"\ndescription = "small"\n'
        '[tool.flwr.app]\npublisher = "us"\n[tool.flwr.app.components]\nserverapp = "app:app"\nclientapp = "app:app"\n'
    )
    return tmp_path


def test_a_run_is_started_with_an_app_and_words_for_it(app):
    server = Hearing(200, answer=StartRunResponse(run_id=RUN).SerializeToString())

    found = start_run(f"127.0.0.1:{server.port}", app, {"settings": "here.toml"})

    server.close()
    told = StartRunRequest.FromString(server.body)
    assert (found, server.path) == (RUN, START)
    assert told.override_config["settings"].string == "here.toml"
    assert {"app.py", "pyproject.toml"} <= set(zipfile.ZipFile(io.BytesIO(told.fab.content)).namelist())
    assert told.fab.hash_str == hashlib.sha256(told.fab.content).hexdigest()


def test_a_run_that_is_not_started_says_why(app):
    server = Hearing(200, answer=StartRunResponse(note="no federation").SerializeToString())

    with pytest.raises(FedmbError, match="must start a run, it says: no federation"):
        start_run(f"127.0.0.1:{server.port}", app, {})

    server.close()


def test_an_app_that_flower_refuses_says_why(app):
    (app / "pyproject.toml").write_text('[project]\nname = "small"\n')

    with pytest.raises(SettingsError, match=r"must take the app in .*, it says: Invalid Flower App"):
        start_run("127.0.0.1:9", app, {})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (RunStatus(status="running"), ("running", "")),
        (RunStatus(status="finished", sub_status="failed", details="none"), ("finished:failed", "none")),
    ],
)
def test_how_a_run_stands_is_told_as_flower_writes_it(told, expected):
    answer = ListRunsResponse(run_dict={RUN: Run(run_id=RUN, status=told)})
    server = Hearing(200, answer=answer.SerializeToString())

    found = run_status(f"127.0.0.1:{server.port}", RUN)

    server.close()
    assert found == expected
    assert server.path == LIST
    assert ListRunsRequest.FromString(server.body).run_id == RUN


def test_a_run_is_ended():
    server = Hearing(200)

    stop_run(f"127.0.0.1:{server.port}", RUN)

    server.close()
    assert server.path == STOP
    assert StopRunRequest.FromString(server.body).run_id == RUN


def test_a_refusal_is_an_error_with_what_was_said():
    server = Hearing(404, answer=b'{"code": 7}')

    with pytest.raises(FedmbError, match=r'must answer /v1/control/list-runs, it says 404: \{"code": 7\}'):
        run_status(f"127.0.0.1:{server.port}", RUN)

    server.close()


def test_nobody_there_is_pythons_own_error():
    with pytest.raises(OSError, match="refused"):
        run_status("127.0.0.1:9", RUN)
