"""`fedmb keys node` makes a pair for each name."""

from fedmb.cli import main
from fedmb.exit_codes import ExitCode


def test_each_client_gets_a_pair(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["keys", "node", "ward", "meter"]) == ExitCode.OK

    assert {path.name for path in (tmp_path / "keys" / "nodes").iterdir()} == {
        f"{name}.{part}" for name in ("ward", "meter") for part in ("key", "pub")
    }
    assert capsys.readouterr().out.count("SHA256:") == 2


def test_a_name_that_is_no_file_is_refused(tmp_path, capsys):
    assert main(["keys", "node", "../ward", "--into", str(tmp_path)]) == ExitCode.SETTINGS
    assert "a node's name is letters" in capsys.readouterr().err
