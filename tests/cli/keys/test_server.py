"""`fedmb keys server` says what it made, where, and until when."""

from fedmb.cli import main
from fedmb.exit_codes import ExitCode


def test_the_first_time_an_authority_is_made_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["keys", "server", "example.org", "10.0.0.5", "--days", "30"]) == ExitCode.OK

    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["authority", "server"]
    assert "UTC" in shown[1]
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {
        f"{name}.{part}" for name in ("authority", "server") for part in ("crt", "key")
    }


def test_a_second_time_is_refused(tmp_path, capsys):
    command = ["keys", "server", "example.org", "--into", str(tmp_path)]
    main(command)

    assert main(command) == ExitCode.SETTINGS
    assert "a key is never overwritten" in capsys.readouterr().err
