"""What `fedmb server` refuses before any process is started; tests/processes runs it."""

import socket

import numpy as np
import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.deployed_server import ServerSettings
from fedmb.settings import load


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *options):
    assert main(["server", *options]) == ExitCode.SETTINGS
    return capsys.readouterr().err


def test_a_port_beyond_loopback_without_tls_is_refused(place, capsys):
    said = refused(capsys, "--host", "0.0.0.0")  # noqa: S104  # what must be refused

    assert said.startswith("error: without TLS a server must listen on loopback, got host 0.0.0.0\n\nhint: give --ssl-")
    assert not list(place.iterdir())


def test_a_taken_port_is_refused_before_a_run_is_begun(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(capsys, "--port", str(taken.getsockname()[1]))

    assert "a port must be free to listen on" in said
    assert not list(place.iterdir())


def test_an_unknown_setting_is_refused(place, capsys):
    assert "did you mean rounds.count?" in refused(capsys, "--port", "0", "--set", "rounds.cuont=3")
    assert not list(place.iterdir())


def test_a_folder_that_is_no_app_is_refused(place, capsys):
    (place / "empty").mkdir()

    assert "an app must have clients/app.py" in refused(capsys, "--port", "0", "--app", "empty", "--run-dir", "run")


def test_a_resumed_run_keeps_its_settings(place, capsys):
    said = refused(capsys, "--port", "0", "--resume", "run", "--seed", "3", "--run-dir", "other")

    assert "a resumed run keeps its settings, got --seed, --run-dir" in said


def test_a_resumed_run_has_no_fewer_rounds(place, capsys):
    (place / "run").mkdir()
    (place / "run" / "config.toml").write_text("[rounds]\ncount = 5\n")

    said = refused(capsys, "--port", "0", "--resume", "run", "--rounds", "4")

    assert "a resumed run may have more rounds than its 5, not fewer, got 4" in said


def test_a_run_without_end_may_be_given_one(place, capsys):
    (place / "run").mkdir()
    (place / "run" / "config.toml").write_text('[rounds]\ncount = "forever"\n')
    checkpoint.save(place / "run" / "checkpoints", ServerState(3, {"w": np.zeros(2)}))

    assert main(["server", "--port", "0", "--resume", "run", "--rounds", "3"]) == ExitCode.OK
    assert "rounds      3 of 3" in capsys.readouterr().out
    assert load(ServerSettings, file=place / "run" / "config.toml").rounds.count == 3


def test_a_run_that_never_began_cannot_go_on(place, capsys):
    assert "must have a config.toml" in refused(capsys, "--port", "0", "--resume", "nowhere")


def test_a_run_that_ended_for_its_privacy_budget_is_begun_again_only_with_a_larger_one(place, capsys, monkeypatch):
    begun = []
    monkeypatch.setattr("fedmb.cli.server._deploy", lambda run, settings, *_: begun.append(settings))
    privacy = "clip_norm = 1.0\nclients = 4\nnoise_multiplier = 2.0\nepsilon = 3.5\n"
    (place / "run").mkdir()
    (place / "run" / "config.toml").write_text(f'[aggregation]\nweights = "equal"\n[aggregation.privacy]\n{privacy}')
    strategy = {"0/privacy/account/releases": np.array([[2.0, 1.0, 2.0]])}
    reason = {"reason": "privacy budget: a round more would make epsilon 4"}
    ended = ServerState(2, {"w": np.zeros(2)}, strategy=strategy, convergence=reason)
    checkpoint.save(place / "run" / "checkpoints", ended)
    words = ["server", "--port", "0", "--resume", "run"]

    assert main(words) == ExitCode.OK
    assert "converged   privacy budget" in capsys.readouterr().out
    assert begun == []
    assert main([*words, "--set", "aggregation.privacy.epsilon=50"]) == ExitCode.OK
    assert [one.aggregation.privacy.epsilon for one in begun] == [50]
