import json
import os
import signal
import threading

import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode

TABLE = ["--set", "tables.default.capacity=10", "--set", 'tables.default.columns={x="float32"}', "--port", "0"]


@pytest.fixture
def _signalled():
    """SIGTERM once a service is there to hear it."""
    ended = threading.Event()

    def send():
        while "drain" not in getattr(signal.getsignal(signal.SIGTERM), "__qualname__", "") and not ended.wait(0.01):
            continue
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    yield
    ended.set()
    sender.join()


@pytest.mark.usefixtures("_signalled")
def test_it_serves_until_sigterm(tmp_path, capsys):
    assert main(["replay", "serve", *TABLE, "--set", f"snapshots.folder={tmp_path}"]) == ExitCode.OK

    assert capsys.readouterr().out == "served 1 tables with 0 rows\n"
    assert list((tmp_path / "default").glob("snapshot-*"))


def test_settings_that_break_a_rule_are_named(capsys):
    assert main(["replay", "serve"]) == ExitCode.SETTINGS
    assert "tables" in capsys.readouterr().err
    assert main(["replay", "serve", *TABLE, "--set", "tabels.x=1"]) == ExitCode.SETTINGS
    assert "tables" in capsys.readouterr().err
    assert main(["replay", "serve", *TABLE, "--host", "example.org"]) == ExitCode.SETTINGS
    assert "needs TLS and a token" in capsys.readouterr().err


def test_a_failure_is_one_json_line_where_the_log_is_json(capsys):
    assert main(["replay", "serve", *TABLE, "--host", "example.org", "--json"]) == ExitCode.SETTINGS

    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["event"], last["fields"]["error"], last["fields"]["code"]) == ("service failed", "SettingsError", 3)


def test_an_app_without_the_program_is_refused(tmp_path, capsys):
    assert main(["replay", "serve", "--app", str(tmp_path)]) == ExitCode.SETTINGS
    assert "server/replay.py" in capsys.readouterr().err


def test_the_settings_that_travel_with_it_are_settings():
    from pathlib import Path

    from fedmb.replay.service_section import ReplayServe, TableSection
    from fedmb.settings import load

    file = Path(__file__).resolve().parents[3] / "server" / "replay.toml"
    found = load(ReplayServe, file=file)
    table = found.tables["default"]
    plain = TableSection(columns=table.columns, capacity=table.capacity, folder=table.folder)

    assert found == ReplayServe(tables={"default": plain}), "every other value is the default"
