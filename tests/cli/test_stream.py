"""`fedmb stream feed` fills a stream until it is told to stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.ingest.stream_url import StreamUrl, open_log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path):
    return f"file:{tmp_path}/log?topic=rows"


def records(url):
    stream = StreamUrl.parse(url)
    reader = open_log(stream).reader(stream.topic, stream.partitions)
    ends = sum(reader.end_offsets().values())
    reader.close()
    return ends


def test_it_stops_when_the_stream_holds_what_was_asked_for(url, capsys):
    assert main(["stream", "feed", url, "--records", "30", "--rows-per-second", "inf"]) == ExitCode.OK

    assert capsys.readouterr().out == f"appended 30 records to {url}\n"
    assert records(url) == 30


def test_sigterm_drains_it(url):
    command = [sys.executable, "-m", "fedmb", "stream", "feed", url, "--rows-per-second", "400"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 60
        while not records(url):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

        os.kill(process.pid, signal.SIGTERM)

        assert process.wait(60) == ExitCode.OK
        assert process.stdout.read() == f"appended {records(url)} records to {url}\n"


def test_settings_come_from_a_file_and_single_ones_from_options(url, tmp_path, capsys):
    file = tmp_path / "stream.toml"
    file.write_text(f'url = "{url}"\nrecords = 5\nrows_per_second = inf\nrows_per_record = 3\n')

    assert main(["stream", "feed", "--config", str(file), "--set", "rows_per_record=2"]) == ExitCode.OK

    assert "appended 5 records to" in capsys.readouterr().out
    assert main(["stream", "inspect", url, "--offset", "-1", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["rows"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "records_per_second=1"], "did you mean rows_per_second?"),
        (["--labels-before", "a,b"], "labels are whole numbers with commas between, got 'a,b'"),
        (["--labels-before", "12"], "12 does not"),
        (["--task", "nowhere:Nothing"], "must be importable"),
        (["--app", "nowhere"], "must have streams/feeder.py"),
    ],
)
def test_a_mistake_is_said(options, words, url, capsys):
    assert main(["stream", "feed", url, *options]) == ExitCode.SETTINGS
    assert words in capsys.readouterr().err


def test_an_app_of_the_users_own_decides_what_the_stream_holds(url, tmp_path, capsys):
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "feeder.py").write_text("def feed(settings, stop):\n    return 42\n")

    assert main(["stream", "feed", url, "--app", str(tmp_path)]) == ExitCode.OK
    assert "appended 42 records" in capsys.readouterr().out
