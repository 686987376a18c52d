"""What `fedmb client` refuses before any process is started; tests/processes runs it."""

import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.telemetry.run_directory import locked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name must be given"),
        (["--name", "ward"], "source must be given"),
        (["--name", "../ward", "--source", "table:task"], "name breaks a rule"),
        (["--name", "ward", "--source", "table:task", "--server", "nowhere"], "a server is written HOST:PORT"),
        (["--name", "ward", "--source", "table:task", "--root-certificates", "no.pem"], "must be an existing file"),
        (["--name", "ward", "--source", "table:task", "--set", "replay.shrae=0.1"], "did you mean replay.share?"),
    ],
)
def test_a_mistake_is_said(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["client", *options]) == ExitCode.SETTINGS
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_state_directory_has_one_client(tmp_path, capsys):
    with locked(tmp_path / "owner.lock", tmp_path):
        code = main(["client", "--name", "ward", "--source", "table:task", "--state", str(tmp_path)])

    assert code == ExitCode.OWNED
    assert "a client's directory has one live process" in capsys.readouterr().err
