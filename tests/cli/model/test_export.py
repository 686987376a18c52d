"""`fedmb model`: what a person types and sees."""

import json

import numpy as np
import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.ledger import Ledger, Position, StreamPartition


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in (1, 2):
        ledger = Ledger({StreamPartition("meter", "rows", 0): Position(version)})
        checkpoint.save(tmp_path / "run" / "checkpoints", ServerState(version, {"w": np.zeros(3)}, ledger))
    return tmp_path / "run"


def test_a_version_is_listed_shown_and_exported(run, capsys):
    assert main(["model", "list", "run"]) == ExitCode.OK
    assert "meter/rows[0] @ 2" in capsys.readouterr().out
    assert main(["model", "show", "run", "--version", "1", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["streams"][0]["to"] == [1, 0]
    assert (
        main(["model", "export", "run", "--version", "2", "--since", "1", "--to", "out/m.safetensors"]) == ExitCode.OK
    )
    assert "meter/rows[0] 1 to 2: 1 offset, set aside: not known here" in capsys.readouterr().out
    assert {path.name for path in (run.parent / "out").iterdir()} == {"m.safetensors", "trained-by.json"}


def test_a_version_that_is_gone_is_a_settings_error_with_a_way_out(run, capsys):
    assert main(["model", "export", "run", "--version", "9"]) == ExitCode.SETTINGS
    assert "error: a version must be one that the run keeps, 1, 2, got 9\n\nhint: the run's" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(run, capsys):
    assert main(["model", "list", "."]) == ExitCode.SETTINGS
    assert "name a run's folder" in capsys.readouterr().err
