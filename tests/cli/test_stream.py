"""The words that may follow `fedmb stream`, as a person uses them."""

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


@pytest.fixture
def filled(url, capsys):
    """A stream of five JSON rows."""
    assert main(["stream", "feed", url, "--records", "5", "--rows-per-second", "inf", "--codec", "json"]) == ExitCode.OK
    capsys.readouterr()
    return url


def test_lag_is_a_table_or_json(filled, tmp_path, capsys):
    main(["stream", "lag", filled, "--json"])
    found = json.loads(capsys.readouterr().out)
    (partition,) = found["partitions"]
    ledger = tmp_path / "ledger.json"
    ledger.write_text(json.dumps({partition["partition"]: [2, 0]}))

    assert main(["stream", "lag", filled, "--ledger", str(ledger)]) == ExitCode.OK

    table = capsys.readouterr().out
    assert (found["lag"], partition["learnt"], partition["end"]) == (5, None, 5)
    assert all(word in table for word in ("partition", "begin", "learnt", "end", "lag"))
    assert any(line.split()[-5:] == ["0", "2", "5", "3", "0"] for line in table.splitlines())


def test_records_are_shown_to_people_and_to_machines(filled, capsys):
    assert main(["stream", "inspect", filled, "--limit", "2"]) == ExitCode.OK
    people = capsys.readouterr().out
    assert main(["stream", "inspect", filled, "--task", "fedmb.tasks.digits:Digits", "--json"]) == ExitCode.OK
    machines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert people.count("json, 1 rows") == 2
    assert "fmb-codec: json" in people
    assert [one["offset"] for one in machines] == [0, 1, 2, 3, 4]
    assert machines[0]["columns"] == {"image": "uint8[64]", "label": "uint8[]"}


def test_what_cannot_be_decoded_is_shown_with_its_reason_and_without_control_characters(url, capsys):
    stream = StreamUrl.parse(url)
    writer = open_log(stream).writer(stream.topic, 0)
    writer.append(b"\x1b]0;evil\x07{", {"x\x1b": b"\x1b[31m"})
    writer.close()

    assert main(["stream", "inspect", url, "--task", "fedmb.tasks.digits:Digits"]) == ExitCode.OK

    shown = capsys.readouterr().out
    assert "not decoded: a packed record must" in shown
    assert "\x1b" not in shown
    assert r"\x1b]0;evil" in shown


def test_single_rows_are_packed_and_packed_again_from_where_it_ended(filled, capsys):
    target = filled.replace("topic=rows", "topic=packed")
    pack = ["stream", "pack", filled, "--to", target, "--rows", "4", "--to-the-end"]

    assert main(pack) == ExitCode.OK
    assert main(pack) == ExitCode.OK

    assert capsys.readouterr().out.splitlines() == [
        f"packed 5 rows into 2 records of {target}, set aside 0",
        f"packed 0 rows into 0 records of {target}, set aside 0",
    ]
    assert records(target) == 2


def test_the_schema_of_a_task_is_printed(capsys):
    assert main(["stream", "schema", "fedmb.tasks.digits:Digits"]) == ExitCode.OK

    assert json.loads(capsys.readouterr().out)["columns"]["image"] == {"dtype": "uint8", "shape": [64]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "ring must be given"),
        (["run", "--app", "nowhere"], "must have streams/daemon.py"),
        (["run", "--schema", "none.json", "--ring", "r"], "No such file"),
        (["lag", "--ledger", "nowhere"], "a ledger is in"),
        (["inspect", "--task", "nowhere:Nothing"], "must be importable"),
        (["pack", "--to", "memory:x"], "must name its topic"),
    ],
)
def test_a_mistake_with_any_word_is_said(words, said, filled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["stream", words[0], filled, *words[1:]]) == ExitCode.SETTINGS
    assert said in capsys.readouterr().err


def test_a_mistake_is_one_json_line_where_the_log_is_json(filled, tmp_path, capsys):
    ring = str(tmp_path / "r")
    command = ["stream", "run", filled, "--ring", ring, "--json", "--set", "watching.prt=1"]

    assert main(command) == ExitCode.SETTINGS

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["fields"]["code"] == ExitCode.SETTINGS
    assert "did you mean watching.port" in json.loads(line)["fields"]["reason"]
